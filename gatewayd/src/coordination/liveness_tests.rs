//! Voters and a silent member as a story; the test is clock, network and ledger.

use super::*;

fn node(byte: u8) -> NodeId {
    NodeId([byte; 20])
}

fn known(byte: u8) -> Known {
    Known { node: node(byte), epoch: 0, online: true, rights: true }
}

/// So many gateways; the first `voters` vote.
fn facts(voters: u8, members: u8) -> Facts {
    Facts {
        era: Era(0),
        voters: (1..=voters).map(node).collect(),
        offline_after_ms: 10_000,
        gateways: (1..=members).map(known).collect(),
    }
}

fn changed(facts: &Facts, byte: u8, change: impl Fn(&mut Known)) -> Facts {
    let mut facts = facts.clone();
    facts.gateways.iter_mut().filter(|known| known.node == node(byte)).for_each(change);
    facts
}

/// One gateway under test, with its clock.
struct Stage {
    liveness: Liveness,
    now_ms: u64,
}

/// Boot time at which the gateway starts: not 0, as on a machine that runs for long.
const START: u64 = 5_000_000;

impl Stage {
    fn of(own: u8, facts: &Facts) -> Self {
        Self::with(own, facts, Some(vec![]))
    }

    fn with(own: u8, facts: &Facts, kept: Option<Vec<Signed>>) -> Self {
        let mut stage = Self { liveness: Liveness::new(node(own), START, kept), now_ms: START };
        assert_eq!(stage.step(Input::Record(facts.clone())), []);
        stage
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        // Site time such that the turn moves on with it.
        let now = Now { mono_ms: self.now_ms, site_ms: self.now_ms, tip: Height(7) };
        self.liveness.step(now, input)
    }

    fn record(&mut self, facts: &Facts) -> Vec<Effect> {
        self.step(Input::Record(facts.clone()))
    }

    /// A heartbeat of a member; whether it is acknowledged, or answered *signed*.
    fn heartbeat(&mut self, from: u8, epoch: u32) -> Option<bool> {
        let beat = Beat::Heartbeat { epoch, stamp: 1 };
        match self.step(Input::Beat { from: node(from), beat }).as_slice() {
            [] => None,
            [Effect::Send(to, Beat::Acknowledgement { stamp: 1, tip, signed, .. })] => {
                assert_eq!((*to, *tip), (node(from), Height(7)));
                Some(*signed)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Time passes second by second while these are heard; all effects but heartbeats.
    fn pass(&mut self, seconds: u64, heard: &[u8]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..seconds {
            self.now_ms += 1_000;
            for from in heard {
                self.heartbeat(*from, 0);
            }
            effects.extend(self.step(Input::Tick));
        }
        effects.retain(|effect| !matches!(effect, Effect::Send(..)));
        effects
    }

    fn asked(&mut self, byte: u8, epoch: u32) -> Effect {
        let mut effects = self.step(Input::Asked { node: node(byte), epoch });
        assert_eq!(effects.len(), 1, "{effects:?}");
        effects.remove(0)
    }
}

fn signs(byte: u8, epoch: u32) -> Signed {
    Signed { node: node(byte), era: Era(0), epoch }
}

#[test]
fn heartbeats_go_to_the_voters_alone_and_in_time() {
    let mut stage = Stage::of(5, &facts(4, 6));
    let mut sent = Vec::new();
    for _ in 0..100 {
        stage.now_ms += 100;
        let beats = stage.step(Input::Tick);
        let to = |effect: &Effect| match effect {
            Effect::Send(to, Beat::Heartbeat { epoch: 0, .. }) => *to,
            other => panic!("{other:?}"),
        };
        if !beats.is_empty() {
            assert_eq!(beats.iter().map(to).collect::<Vec<_>>(), [1, 2, 3, 4].map(node));
            sent.push(stage.now_ms);
        }
    }
    assert!(sent.windows(2).all(|two| two[1] - two[0] == 2_500), "a quarter of 10 s: {sent:?}");
    assert_eq!(facts(4, 4).interval_ms(), 2_500);
    let slow = Facts { offline_after_ms: 600_000, ..facts(4, 4) };
    assert_eq!(slow.interval_ms(), 3_000, "and at least every 3 s");
    // A sole voter has nobody to tell.
    let mut alone = Stage::of(1, &facts(1, 3));
    assert_eq!(alone.pass(5, &[2, 3]), []);
    alone.now_ms += 5_000;
    assert_eq!(alone.step(Input::Tick), []);
}

#[test]
fn a_quorum_that_misses_a_member_is_collected_by_the_one_whose_turn_it_is() {
    let all = facts(4, 4);
    let mut collected = Vec::new();
    for own in [1, 2, 3] {
        let mut stage = Stage::of(own, &all);
        let others: Vec<u8> = [1, 2, 3].into_iter().filter(|it| *it != own).collect();
        assert_eq!(stage.pass(20, &[1, 2, 3, 4]), [], "everybody is there");
        assert_eq!(stage.pass(9, &others), [], "not yet");
        assert_eq!(stage.asked(4, 0), Effect::Decline(Declined::Heard));
        // Turns have gone round once.
        for effect in stage.pass(15, &others) {
            let Effect::Collect { statement, voters, needed } = effect else { panic!() };
            assert_eq!((statement, needed), (signs(4, 0), 3));
            assert_eq!(voters, others.iter().copied().map(node).collect::<Vec<_>>());
            collected.push(own);
        }
        assert_eq!(
            stage.asked(4, 0),
            Effect::Sign { statement: signs(4, 0), keep: Some(vec![signs(4, 0)]) }
        );
    }
    assert_eq!(collected, [1, 2, 3], "each in its turn, once");
}

#[test]
fn the_smaller_part_of_a_divided_site_collects_nothing() {
    for (own, heard) in [(1, vec![2]), (1, vec![]), (2, vec![1])] {
        let mut stage = Stage::of(own, &facts(4, 4));
        stage.pass(5, &[1, 2, 3, 4]);
        assert_eq!(stage.pass(300, &heard), [], "{own} with {heard:?}");
    }
    // Two and three voters: the others of a silent one are no quorum.
    for voters in [2, 3] {
        let mut stage = Stage::of(1, &facts(voters, voters));
        let heard: Vec<u8> = (2..voters).collect();
        assert_eq!(stage.pass(300, &heard), [], "{voters} voters");
    }
    // A sole voter finds by itself that a member is gone; nobody finds so of it.
    let mut stage = Stage::of(1, &facts(1, 2));
    let found = stage.pass(12, &[]);
    assert!(matches!(&found[..], [Effect::Collect { voters, needed: 1, .. }] if voters.is_empty()));
    let mut member = Stage::of(2, &facts(1, 2));
    assert_eq!(member.pass(60, &[]), []);
    assert_eq!(member.asked(1, 0), Effect::Decline(Declined::NoVote));
}

#[test]
fn who_has_signed_acknowledges_nothing_more_of_that_life() {
    let all = facts(4, 4);
    let mut stage = Stage::of(1, &all);
    stage.pass(5, &[2, 3, 4]);
    assert_eq!(stage.heartbeat(4, 0), Some(false));
    stage.pass(10, &[2, 3]);
    assert!(matches!(stage.asked(4, 0), Effect::Sign { keep: Some(_), .. }));
    assert_eq!(stage.heartbeat(4, 0), Some(true), "it is told");
    // Asked again it signs the same; nothing is written for that.
    assert_eq!(stage.asked(4, 0), Effect::Sign { statement: signs(4, 0), keep: None });
    // A voter that has not read the block yet acknowledges the next life all the same.
    assert_eq!(stage.heartbeat(4, 1), Some(false));
    let back = changed(&all, 4, |it| it.epoch = 1);
    assert_eq!(stage.record(&back), [Effect::Changed(back.gateways[3])]);
    assert_eq!(stage.heartbeat(4, 1), Some(false));
    // What was said about the earlier life is void: it is neither signed nor collected any more.
    assert_eq!(stage.asked(4, 0), Effect::Decline(Declined::Otherwise));
    assert_eq!(stage.asked(4, 1), Effect::Decline(Declined::Heard));
    assert_eq!(stage.pass(5, &[2, 3]), []);
}

#[test]
fn a_restart_forgets_nothing_and_begins_to_count_anew() {
    let all = facts(4, 4);
    let mut stage = Stage::with(1, &all, Some(vec![signs(4, 0), signs(3, 7)]));
    assert_eq!(stage.heartbeat(4, 0), Some(true), "signed before the restart");
    assert_eq!(stage.heartbeat(3, 0), Some(true), "about a life that it has not read of yet");
    assert_eq!(stage.asked(2, 0), Effect::Decline(Declined::Heard), "it has just started");
    stage.pass(9, &[]);
    assert_eq!(stage.asked(2, 0), Effect::Decline(Declined::Heard));
    stage.pass(1, &[]);
    let all_kept = Some(vec![signs(2, 0), signs(3, 7), signs(4, 0)]);
    assert_eq!(stage.asked(2, 0), Effect::Sign { statement: signs(2, 0), keep: all_kept });

    // A statement of another era is void, whatever its number.
    let era = Facts { era: Era(1), ..all.clone() };
    let mut stage = Stage::with(1, &era, Some(vec![signs(4, 0)]));
    assert_eq!(stage.heartbeat(4, 0), Some(false));

    // What cannot be read may have been anything: everybody is asked to come back.
    let mut stage = Stage::with(1, &all, None);
    assert_eq!([2, 3, 4].map(|from| stage.heartbeat(from, 0)), [Some(true); 3]);
    stage.record(&changed(&all, 2, |it| it.epoch = 1));
    assert_eq!(stage.heartbeat(2, 1), Some(false), "and is acknowledged then");
    assert_eq!(stage.heartbeat(3, 0), Some(true));
}

#[test]
fn a_machine_that_stood_still_accuses_nobody() {
    let mut stage = Stage::of(1, &facts(4, 4));
    stage.pass(30, &[2, 3, 4]);
    // Suspended for an hour: boot time goes on.
    stage.now_ms += 3_600_000;
    for silent in [2, 3, 4] {
        assert_eq!(stage.asked(silent, 0), Effect::Decline(Declined::Heard));
    }
    assert_eq!(stage.pass(9, &[2, 3]), []);
    assert_eq!(stage.pass(20, &[2, 3]).len(), 1, "only then is silence silence again");
}

#[test]
fn newcomers_and_new_voters_are_given_time() {
    let three = facts(3, 3);
    let mut stage = Stage::of(1, &three);
    stage.pass(20, &[2, 3]);
    stage.record(&facts(3, 4));
    assert_eq!(stage.pass(55, &[2, 3]), [], "it fetches the record");
    assert!(!stage.pass(20, &[2, 3]).is_empty(), "it never came");
    // A gateway that has just got its vote was sent no heartbeats before.
    let mut stage = Stage::of(4, &facts(1, 4));
    stage.pass(60, &[]);
    stage.record(&facts(4, 4));
    assert_eq!(stage.asked(1, 0), Effect::Decline(Declined::Heard));
}

#[test]
fn who_cannot_lose_anything_is_left_alone() {
    let all = facts(4, 5);
    for change in [|it: &mut Known| it.online = false, |it: &mut Known| it.rights = false] {
        let mut stage = Stage::of(1, &changed(&all, 5, change));
        assert_eq!(stage.pass(60, &[2, 3, 4]), []);
        assert_eq!(stage.asked(5, 0), Effect::Decline(Declined::Otherwise));
    }
    let mut stage = Stage::of(1, &all);
    stage.pass(60, &[2, 3, 4]);
    for (byte, epoch) in [(1, 0), (9, 0), (5, 1)] {
        assert_eq!(stage.asked(byte, epoch), Effect::Decline(Declined::Otherwise));
    }
    // A stranger is not heard.
    assert_eq!(stage.heartbeat(9, 0), None);
}

#[test]
fn a_member_comes_back_when_the_record_says_so_or_a_voter_does() {
    let all = facts(4, 4);
    let gone = changed(&all, 4, |it| it.online = false);
    let mut stage = Stage::of(4, &all);
    assert_eq!(stage.pass(5, &[1, 2, 3]), []);
    assert_eq!(stage.record(&gone), [Effect::Changed(gone.gateways[3])]);
    assert_eq!(stage.pass(1, &[]), [Effect::ComeOnline { epoch: 1 }]);
    assert_eq!(stage.pass(30, &[]), [], "one at a time");
    stage.step(Input::Came);
    assert_eq!(stage.pass(5, &[]), [Effect::ComeOnline { epoch: 1 }], "it was refused: again");
    let back = changed(&all, 4, |it| it.epoch = 1);
    assert_eq!(stage.record(&back), [Effect::Changed(back.gateways[3])]);
    stage.step(Input::Came);
    assert_eq!(stage.pass(30, &[]), [], "it is there");

    // While it is online, upon the word of one voter; for another life, or for what was never
    // sent, it does not.
    let said = |stamp, epoch| Input::Beat {
        from: node(1),
        beat: Beat::Acknowledgement { epoch, stamp, tip: Height(9), signed: true },
    };
    let stamp = |stage: &mut Stage| {
        stage.now_ms += 3_000;
        stage.step(Input::Tick);
        stage.now_ms
    };
    let sent = stamp(&mut stage);
    assert_eq!(stage.step(said(sent + 1, 1)), [], "no heartbeat of this gateway's");
    assert_eq!(stage.step(said(sent, 0)), [], "it was about the last life");
    assert_eq!(stage.step(said(sent, 1)), [Effect::ComeOnline { epoch: 2 }]);
    assert_eq!(stage.liveness.tips().collect::<Vec<_>>(), [(node(1), Height(9))]);
}

#[test]
fn a_voter_that_says_signed_for_ever_does_not_fill_the_record() {
    let mut facts = facts(4, 4);
    let mut stage = Stage::of(4, &facts);
    let mut comes = 0;
    // A day.
    for _ in 0..86_400 / 3 {
        stage.now_ms += 3_000;
        stage.step(Input::Tick);
        let epoch = facts.gateways[3].epoch;
        let beat =
            Beat::Acknowledgement { epoch, stamp: stage.now_ms, tip: Height(9), signed: true };
        if !stage.step(Input::Beat { from: node(1), beat }).is_empty() {
            comes += 1;
            facts.gateways[3].epoch += 1;
            stage.step(Input::Came);
            stage.record(&facts);
        }
    }
    assert!((10..40).contains(&comes), "{comes} in a day");
}

#[test]
fn collections_in_vain_are_tried_again_with_pauses() {
    let all = facts(4, 4);
    let mut stage = Stage::of(1, &all);
    let mut tries = 0;
    for _ in 0..600 {
        let effects = stage.pass(1, &[2, 3]);
        tries += effects.len();
        for _ in effects {
            stage.step(Input::Collected { node: node(4), done: false });
        }
    }
    assert!((5..60).contains(&tries), "{tries} in ten minutes");
    // Not one look a moment while somebody stays silent.
    let wake = stage.liveness.next_wake(stage.now_ms);
    assert!(wake > stage.now_ms && wake <= stage.now_ms + 2_500);
}
