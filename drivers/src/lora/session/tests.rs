//! Windows of counters.

use super::*;

fn drain(window: &mut Window) -> Vec<u32> {
    std::iter::from_fn(|| window.take()).take(1_000).collect()
}

/// What, the grants (from, count), the values that come out (from, end).
type Case = (&'static str, &'static [(u32, u32)], &'static [(u32, u32)]);

#[test]
fn windows_join_follow_and_never_repeat() {
    let table: [Case; 8] = [
        ("none", &[], &[]),
        ("one", &[(5, 3)], &[(5, 8)]),
        ("empty", &[(5, 0)], &[]),
        ("the same twice", &[(5, 3), (5, 3)], &[(5, 8)]),
        ("touching", &[(0, 4), (4, 4)], &[(0, 8)]),
        ("apart", &[(0, 4), (8, 4)], &[(0, 4), (8, 12)]),
        ("overlapping", &[(0, 4), (2, 4)], &[(0, 6)]),
        ("three apart: the oldest is given up", &[(0, 4), (8, 4), (20, 4)], &[(8, 12), (20, 24)]),
    ];
    for (what, grants, expected) in table {
        let mut window = Window::default();
        for (from, count) in grants {
            window.grant(*from, *count);
        }
        let expected: Vec<u32> = expected.iter().flat_map(|(from, end)| *from..*end).collect();
        assert_eq!(window.left() as usize, expected.len(), "{what}");
        assert_eq!(drain(&mut window), expected, "{what}");
    }
}

#[test]
fn the_end_of_all_counters() {
    let mut window = Window::default();
    window.grant(u32::MAX - 2, 10);
    assert_eq!(drain(&mut window), [u32::MAX - 2, u32::MAX - 1]);
    window.grant(0, 100);
    assert_eq!(window.take(), None, "nothing below what was held");
}

#[test]
fn more_is_asked_for_in_time_and_again_if_need_be() {
    let mut window = Window::default();
    window.grant(0, 8);
    let asked: Vec<u32> =
        (0..8).filter(|_| window.take().is_some() && window.ask(1_000, 8)).collect();
    assert_eq!(asked, [5], "with two of eight left");
    assert!(!window.ask(10_999, 8) && window.ask(11_000, 8), "nothing came of it");
    window.grant(8, 8);
    assert!(!window.ask(100_000, 8), "there is enough");
    drain(&mut window);
    assert!(window.ask(100_000, 8) && !window.ask(100_001, 8));
}
