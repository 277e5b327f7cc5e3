//! `fuzz TARGET [--seconds N] [--runs N] [--seed N]`, `fuzz TARGET FILE...`, `fuzz --list`.
//!
//! Runs every seed as it is, then mutations of them. A panic, or an input that takes longer than
//! [`HANG`], is written to `target/fuzz` with the command that replays it, and ends with status 1.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuzz::mutation::{MAX_INPUT, Random, mutate};
use fuzz::{TARGETS, Target, target};

/// An input that keeps a parser busy for this to twice this long is a finding; slow machines are
/// slow by far less.
const HANG: Duration = Duration::from_secs(30);

/// What was asked for.
struct Order {
    target: &'static Target,
    files: Vec<PathBuf>,
    seconds: Option<u64>,
    runs: Option<u64>,
    seed: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--list"] {
        for target in TARGETS {
            println!("{}", target.name);
        }
        return ExitCode::SUCCESS;
    }
    let order = match order(&words) {
        Ok(order) => order,
        Err(why) => {
            eprintln!("fuzz: {why}");
            return ExitCode::from(2);
        }
    };
    if order.files.is_empty() { campaign(&order) } else { replay(&order) }
}

fn order(words: &[String]) -> Result<Order, String> {
    let (name, rest) = words.split_first().ok_or("which target? See --list")?;
    let target = target(name).ok_or(format!("no target {name}; see --list"))?;
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let mut order = Order { target, files: Vec::new(), seconds: None, runs: None, seed };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let mut number = || {
            let text = rest.next().ok_or(format!("{word} needs a number"))?;
            text.parse::<u64>().map_err(|_| format!("{text} is not a number"))
        };
        match word.as_str() {
            "--seconds" => order.seconds = Some(number()?),
            "--runs" => order.runs = Some(number()?),
            "--seed" => order.seed = number()?,
            file if !file.starts_with("--") => order.files.push(file.into()),
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(order)
}

/// Seeds first, then mutations until time or runs are over (default: 3 s).
fn campaign(order: &Order) -> ExitCode {
    let seeds = seeds(order.target);
    let watch = Watch::start(order.target.name);
    let began = Instant::now();
    let most_time = match (order.seconds, order.runs) {
        (None, None) => Duration::from_secs(3),
        (None, Some(_)) => Duration::MAX,
        (Some(seconds), _) => Duration::from_secs(seconds),
    };
    let most_runs = order.runs.unwrap_or(u64::MAX);
    let mut random = Random::new(order.seed);
    let mut runs = 0_u64;
    let mut bytes_in = 0_u64;
    println!("{}: {} seeds, --seed {}", order.target.name, seeds.len(), order.seed);
    loop {
        let input = match usize::try_from(runs).ok().and_then(|at| seeds.get(at)) {
            Some(seed) => seed.clone(),
            None if runs >= most_runs || began.elapsed() >= most_time => break,
            None => mutate(&mut random, &seeds),
        };
        runs += 1;
        bytes_in += input.len() as u64;
        if !survives(order.target, &input, &watch) {
            return ExitCode::FAILURE;
        }
    }
    println!(
        "{}: {runs} inputs, {} bytes each on average, {:.1} s, none panicked",
        order.target.name,
        bytes_in / runs.max(1),
        began.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn replay(order: &Order) -> ExitCode {
    let watch = Watch::start(order.target.name);
    for file in &order.files {
        match fs::read(file) {
            Ok(input) if survives(order.target, &input, &watch) => {
                println!("{}: {} did no harm", order.target.name, file.display());
            }
            Ok(_) => return ExitCode::FAILURE,
            Err(why) => {
                eprintln!("fuzz: {}: {why}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs one input under watch; on a panic keeps the input and says how to see it again.
fn survives(target: &Target, input: &[u8], watch: &Watch) -> bool {
    watch.begin(input);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    watch.end();
    if outcome.is_err() {
        report(target.name, "panicked", input);
    }
    outcome.is_ok()
}

fn report(name: &str, what: &str, input: &[u8]) {
    let folder =
        PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or("target".into())).join("fuzz");
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for byte in input {
        digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let file = folder.join(format!("{name}-{digest:016x}"));
    let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input));
    match kept {
        Ok(()) => eprintln!(
            "{name} {what} on {} bytes. Replay: cargo run -p fuzz -- {name} {}",
            input.len(),
            file.display()
        ),
        Err(why) => eprintln!("{name} {what}; {}: {why}; the input: {input:02x?}", file.display()),
    }
}

/// A thread that ends the process when one input takes too long.
struct Watch(Arc<Mutex<Watched>>);

/// What the watcher sees of the run.
#[derive(Default)]
struct Watched {
    runs: u64,
    input: Option<Vec<u8>>,
}

impl Watch {
    fn start(name: &'static str) -> Self {
        let watched = Arc::new(Mutex::new(Watched::default()));
        let seen = Arc::downgrade(&watched);
        std::thread::spawn(move || {
            let mut last = 0;
            loop {
                std::thread::sleep(HANG);
                let Some(watched) = seen.upgrade() else { return };
                let watched = lock(&watched);
                match &watched.input {
                    Some(input) if watched.runs == last => {
                        report(name, "hung", input);
                        std::process::exit(1);
                    }
                    _ => last = watched.runs,
                }
            }
        });
        Self(watched)
    }

    fn begin(&self, input: &[u8]) {
        let mut watched = lock(&self.0);
        watched.runs += 1;
        watched.input = Some(input.to_vec());
    }

    fn end(&self) {
        lock(&self.0).input = None;
    }
}

/// The state is a number and some bytes: whole even if its holder panicked.
fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seeds of a target in the order of their places, so that a seed number replays on any machine.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = fuzz.ancestors().nth(2).unwrap_or(fuzz);
    let mut files = Vec::new();
    let mut lines = Vec::new();
    collect(&fuzz.join("corpus").join(target.name), &mut files);
    for seed in target.seeds {
        match seed.split_once('#') {
            Some((file, name)) => lines.extend(hex_lines(&top.join(file), name)),
            None => collect(&top.join(seed), &mut files),
        }
    }
    files.sort();
    let files = files.iter().filter_map(|file| fs::read(file).ok());
    files.chain(lines).filter(|bytes| bytes.len() <= MAX_INPUT).collect()
}

/// The bytes of the lines `NAME… HEX` of a file.
fn hex_lines(file: &Path, name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| {
            let hex = line.split_once(' ')?.1;
            let digits = (0..hex.len() / 2).map(|at| hex.get(2 * at..2 * at + 2));
            digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
        })
        .collect()
}

/// Every file at or below a path; nothing when there is none.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    match fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries.flatten() {
                collect(&entry.path(), files);
            }
        }
        Err(_) if path.is_file() => files.push(path.into()),
        Err(_) => {}
    }
}
