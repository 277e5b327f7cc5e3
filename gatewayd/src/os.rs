//! The one place where the operating system demands `unsafe`: asking the kernel about its clock.
//! Nothing else belongs here.

#![allow(unsafe_code, reason = "adjtimex has no safe wrapper in the crates we use")]

/// Whether the kernel's clock discipline says *synchronised* (adjtimex(2): the state is not
/// TIME_ERROR and STA_UNSYNC is clear).
pub(crate) fn clock_is_synchronised() -> bool {
    // SAFETY: `timex` is plain old data for which all zeroes is a valid value, and `modes = 0`
    // makes adjtimex a pure read that fills the struct it is given; it keeps no pointer to it.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers() {
        // The answer depends on the machine; that asking twice agrees is what can be checked.
        assert_eq!(super::clock_is_synchronised(), super::clock_is_synchronised());
    }
}
