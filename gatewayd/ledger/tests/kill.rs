//! `kill -9` under load: a child process makes blocks and says so, the parent kills it and looks
//! whether everything that was said is there.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ledger::host::{Host, Outward};
use ledger::ids::Height;
use ledger::node::{Input, Now};
use ledger::store::{Reader, Store};
use site::{START_MS, Site};

const KILLS: u64 = 60;
const CHILD: &str = "LEDGER_KILL_CHILD";

#[test]
fn every_acknowledged_block_survives_sixty_kills() {
    if let Some(directory) = std::env::var_os(CHILD) {
        make_blocks(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    Store::found(directory.path(), &Site::new(1).founding()).unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        // A different moment each time: after so many lines, and so many empty turns.
        let (lines, turns) = (kill * 7 % 23, kill * 7_919 % 50_000);
        acknowledged = acknowledged.max(run_and_kill(directory.path(), lines, turns));
        let tip = Reader::open(directory.path()).unwrap().tip().unwrap().height;
        assert!(tip.0 >= acknowledged, "block {acknowledged} was acknowledged, the tip is {tip}");
    }
    let reader = Reader::open(directory.path()).unwrap();
    let tip = reader.tip().unwrap();
    assert!(tip.height.0 > KILLS, "the children did little: {}", tip.height);
    // The chain is whole, and each act was recorded once.
    let mut parent = reader.header(Height(0)).unwrap().unwrap();
    for height in 1..=tip.height.0 {
        let block = reader.block(Height(height)).unwrap().unwrap();
        assert_eq!(block.header.parent_hash, parent.hash());
        let nonces: Vec<_> = block.transactions.iter().map(|act| act.draft().nonce).collect();
        assert_eq!(nonces, [height]);
        parent = block.header;
    }
}

/// Starts a child, reads so many of its lines, waits a little and kills it. Returns the last
/// height that it acknowledged.
fn run_and_kill(directory: &Path, lines: u64, turns: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["every_acknowledged_block_survives_sixty_kills", "--exact", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = 0;
    let mut read = 0;
    while read < lines {
        let line = output.next().expect("the child runs until it is killed").unwrap();
        if let Some(height) = line.strip_prefix("stored ") {
            last = height.parse().unwrap();
            read += 1;
        }
    }
    for _ in 0..turns {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts as well.
    let rest = output.map_while(Result::ok);
    let heights = rest.filter_map(|line| line.strip_prefix("stored ")?.parse().ok());
    heights.fold(last, u64::max)
}

fn make_blocks(directory: &Path) -> ! {
    let site = Site::new(1);
    let vote_key = site.votes[0].clone();
    let mut host = Host::open(directory, site.nodes[0], Some(vote_key)).unwrap();
    let mut now = Now { mono_ms: 0, wall_ms: START_MS, synchronised: true };
    let mut step = |host: &mut Host, input| {
        now.mono_ms += 1;
        now.wall_ms += 1;
        let mut say = |out| {
            if let Outward::Committed(committed) = out {
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "stored {}", committed.height).unwrap();
                stdout.flush().unwrap();
            }
        };
        host.step(now, input, &mut say).unwrap();
    };
    step(&mut host, Input::Start);
    loop {
        let nonce = host.node().tip().height.0 + 1;
        step(&mut host, Input::Submit(Box::new(site.act(nonce))));
    }
}
