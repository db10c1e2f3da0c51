//! Makes logins less often while the server refuses the password. Servers delay the answers to such
//! logins more each time, also those to other targets on the same server (Dovecot counts failures
//! by the client's address), and some block an address that goes on.

use std::time::Duration;

use crate::engine::probe::error::{LATE_ANSWER, ProbeError, Stage};

/// The longest interval that repeated refusals lead to. A longer `fast_interval` is used as it is.
const LONGEST: Duration = Duration::from_secs(60);

/// What the text of a refused login begins with.
const REFUSED: &str = "auth: refused: ";

/// The text between a refusal and the failure of a later login.
const SINCE: &str = "; since then ";

/// How often in a row the login was refused for its user, password or mechanism, or as one too many
/// (`[LOGIN-DELAY]`), after one more failure. A server that refuses logins for now (`[UNAVAILABLE]`,
/// `[SYS/TEMP]`, 454) does not count them.
pub(super) fn refusals_after(before: u16, error: &ProbeError) -> u16 {
    if error.login_refused {
        before.saturating_add(1)
    } else if !error.is_conclusive() {
        before
    } else if before > 0 && is_late_answer(error) {
        // Probably another refusal that the server delays beyond our timeout.
        before.saturating_add(1)
    } else {
        0
    }
}

/// Whether the server refused the login because it came too soon after another (`[LOGIN-DELAY]`), which
/// says nothing of its health.
pub(super) fn is_one_too_many(error: &ProbeError) -> bool {
    error.login_refused && !error.is_conclusive()
}

/// The interval after `refusals` refusals in a row: `fast`, doubled for each of them.
pub(super) fn interval(fast: Duration, refusals: u16) -> Duration {
    doubled(fast, refusals).min(LONGEST.max(fast))
}

/// The interval after a login that was one too many, the last of `refusals` refusals in a row. It lies
/// between `usual`, the interval of a healthy target, and [`LONGEST`]. If `usual` is the longer one, it
/// is reached too, since operators set it to more than the server's delay.
pub(super) fn after_delay(fast: Duration, usual: Duration, refusals: u16) -> Duration {
    doubled(fast, refusals).clamp(usual.min(LONGEST), usual.max(LONGEST))
}

fn doubled(fast: Duration, times: u16) -> Duration {
    fast.saturating_mul(2u32.saturating_pow(times.into()))
}

/// The text of a failure. `before` is the text of the previous one: if that was a refused login and
/// the login now timed out, the refusal is kept in the text, since it tells the operator more.
pub(super) fn explained(before: Option<&str>, error: &ProbeError) -> String {
    let refusal = before
        .filter(|text| text.starts_with(REFUSED) && is_late_answer(error))
        .map(|text| text.split_once(SINCE).map_or(text, |(refusal, _)| refusal));
    match refusal {
        Some(refusal) => {
            let reason = error.reason.strip_suffix(LATE_ANSWER);
            let reason = reason.unwrap_or(&error.reason);
            format!("{refusal}{SINCE}{reason}")
        }
        None => error.to_string(),
    }
}

fn is_late_answer(error: &ProbeError) -> bool {
    error.stage == Stage::Auth && error.is_timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::probe::error::Evidence;

    const FAST: Duration = Duration::from_secs(1);

    fn refused() -> ProbeError {
        ProbeError {
            login_refused: true,
            ..ProbeError::new(Stage::Auth, "refused: a1 NO")
        }
    }

    fn late() -> ProbeError {
        let mut error = ProbeError::timeout(Stage::Auth, 5 * FAST);
        error.reason += LATE_ANSWER;
        error
    }

    #[test]
    fn the_interval_doubles_up_to_a_minute() {
        let seconds = [0, 1, 2, 3, 4, 5, 6, 7, 100].map(|n| interval(FAST, n).as_secs());
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(interval(FAST * 300, 4), FAST * 300);
    }

    #[test]
    fn a_delay_lasts_between_the_usual_interval_and_a_minute() {
        let waits = |usual: u32, refusals: &[u16]| -> Vec<u64> {
            let wait = |refusals: &u16| after_delay(FAST, FAST * usual, *refusals).as_secs();
            refusals.iter().map(wait).collect()
        };
        assert_eq!(waits(10, &[1, 3, 4, 5, 6, 100]), [10, 10, 16, 32, 60, 60]);
        assert_eq!(
            waits(300, &[1, 6, 7, 8, 9, 100]),
            [60, 64, 128, 256, 300, 300]
        );
    }

    #[test]
    fn refusals_in_a_row_are_counted() {
        assert_eq!(refusals_after(0, &refused()), 1);
        assert_eq!(refusals_after(3, &late()), 4);
        // A timeout without a refusal before it is no refusal.
        assert_eq!(refusals_after(0, &late()), 0);
        let busy = ProbeError::new(Stage::Auth, "refused: a1 NO [UNAVAILABLE] later");
        assert_eq!(refusals_after(3, &busy), 0);
        let down = ProbeError::new(Stage::Connect, "connection refused");
        assert_eq!(refusals_after(3, &down), 0);
        let lack = ProbeError::new(Stage::Internal, "too many open files");
        assert_eq!(refusals_after(3, &lack), 3);
        let too_soon = ProbeError {
            evidence: Evidence::Nothing,
            ..refused()
        };
        assert_eq!(refusals_after(3, &too_soon), 4);
    }

    #[test]
    fn the_refusal_is_what_explains() {
        let first = explained(None, &refused());
        assert_eq!(first, "auth: refused: a1 NO");
        let second = explained(Some(&first), &late());
        assert_eq!(
            second,
            "auth: refused: a1 NO; since then timed out after 5s"
        );
        assert_eq!(explained(Some(&second), &late()), second);
        let down = ProbeError::new(Stage::Connect, "connection refused");
        assert_eq!(explained(Some(&second), &down), down.to_string());
        assert_eq!(
            explained(None, &late()),
            "auth: timed out after 5s (servers delay the answer to a wrong password)"
        );
    }
}
