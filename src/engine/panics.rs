//! A panic in a probe is that probe's failure and nobody else's.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::probe::Outcome;
use super::probe::error::{ProbeError, Stage};

/// The outcome of `probe`, or an inconclusive one where it panicked.
pub(super) async fn contained<F>(mut probe: Pin<Box<F>>) -> Outcome
where
    F: Future<Output = Outcome> + ?Sized,
{
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| probe.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Outcome {
                result: Err(ProbeError::new(
                    Stage::Internal,
                    format!("panic: {}", text(panic.as_ref())),
                )),
                address: None,
                elapsed: Duration::ZERO,
                tls: None,
            }),
        },
    )
    .await
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
    }
}
