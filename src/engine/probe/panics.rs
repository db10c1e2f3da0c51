//! Turns a panic in a probe into an inconclusive outcome of that probe, so that other probes and
//! the engine thread go on.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinError;

use super::error::{ProbeError, Stage};
use super::{Outcome, StageTimes};

/// The outcome of `probe`, or an inconclusive one if it panics.
pub(in crate::engine) async fn contained<F>(probe: Pin<Box<F>>) -> Outcome
where
    F: Future<Output = Outcome> + ?Sized,
{
    let ended = outlived(probe).await;
    ended.unwrap_or_else(|panic| inconclusive(panic.as_ref()))
}

/// The output of `future`.
///
/// # Errors
/// The payload of its panic.
pub(in crate::engine) async fn outlived<F>(
    mut future: Pin<Box<F>>,
) -> std::thread::Result<F::Output>
where
    F: Future + ?Sized,
{
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// Runs one step of a probe and returns its result.
///
/// # Errors
/// An inconclusive outcome if the step panicked.
#[expect(
    clippy::result_large_err,
    reason = "moved once per probe, which costs less than an allocation"
)]
pub(in crate::engine) fn caught<T>(step: impl FnOnce() -> T) -> Result<T, Outcome> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| inconclusive(panic.as_ref()))
}

/// The outcome of a probe whose task panicked or was cancelled.
pub(in crate::engine) fn ended(error: JoinError) -> Outcome {
    match error.try_into_panic() {
        Ok(panic) => inconclusive(panic.as_ref()),
        Err(_) => inconclusive(&"the probe was called off"),
    }
}

fn inconclusive(panic: &(dyn Any + Send)) -> Outcome {
    Outcome {
        result: Err(ProbeError::new(
            Stage::Internal,
            format!("panic: {}", text(panic)),
        )),
        address: None,
        elapsed: Duration::ZERO,
        stages: StageTimes::new(),
        tls: None,
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_inconclusive_outcome() {
        let outcome = contained(Box::pin(async { panic!("boom {}", 1) })).await;
        assert!(!outcome.is_conclusive());
        assert_eq!(
            outcome.result.unwrap_err().to_string(),
            "internal: panic: boom 1"
        );
        let outcome = caught(|| -> () { panic!("boom {}", 2) }).unwrap_err();
        assert_eq!(
            outcome.result.unwrap_err().to_string(),
            "internal: panic: boom 2"
        );
    }
}
