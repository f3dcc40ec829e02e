//! A call over a tunnel: the answers to it, and how many are under way.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;

use super::{RemoteError, SendError, Status, Stream, StreamError};
use crate::{Answer, Answers, NotPhp, Refused};

/// The number of bounded things in use, such as calls under way.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    is_none: Notify,
}

/// One of them, until dropped.
#[derive(Debug)]
pub struct InFlightGuard(InFlight);

impl InFlight {
    pub fn get(&self) -> usize {
        self.0.now.load(Ordering::SeqCst)
    }

    /// Waits until there are none.
    pub async fn none(&self) {
        loop {
            // Registered first, so that no notification is missed between the check and the wait.
            let mut is_none = pin!(self.0.is_none.notified());
            is_none.as_mut().enable();
            if self.get() == 0 {
                return;
            }
            is_none.await;
        }
    }

    pub fn acquire(&self, max: usize) -> Option<InFlightGuard> {
        let increment = |n| (n < max).then_some(n + 1);
        let counted = self.0.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment);
        counted.ok().map(|_| InFlightGuard(self.clone()))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.0.now.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.0.is_none.notify_waiters();
        }
    }
}

/// Why a call could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the arguments cannot be sent to a PHP master: {0}")]
    NotPhp(#[from] NotPhp),
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full | SendError::Unfit(_) => Self::Overloaded,
            SendError::NoMemory => Self::NoMemory,
            SendError::Ended(_) => Self::Gone,
        }
    }
}

/// Converts what arrives on a call's stream to answers. Besides failures, only the statuses in `believed` are accepted
/// from the other end. `held` is held until the last answer is taken.
pub fn answers(
    stream: Result<Stream, CallError>,
    believed: &'static [Status],
    held: impl Send + 'static,
) -> Result<Answers, Refused> {
    let stream = match stream {
        Ok(stream) => stream,
        Err(CallError::Send(error @ (SendError::Full | SendError::NoMemory | SendError::Ended(_)))) => {
            return Err(error.into());
        }
        // No other master would accept it either.
        Err(unfit) => return Ok(stream::iter([failed(RemoteError::new(unfit.to_string()), &[])]).boxed()),
    };
    let next = move |open: Option<_>| async move {
        let (mut stream, held): (Stream, _) = open?;
        let answer = match stream.next().await {
            Ok(Some(value)) => Answer::Value(value),
            Ok(None) => Answer::End,
            Err(StreamError::Failed(error)) => failed(error, believed),
            Err(lost @ (StreamError::Lost(_) | StreamError::TrunkClosed)) => {
                let why = match lost {
                    StreamError::Lost(why) => format!("the connection to the master was lost: {why}"),
                    other => other.to_string(),
                };
                if stream.was_sent() { Answer::Lost(why) } else { Answer::Unsent(why) }
            }
            Err(other) => failed(RemoteError::new(other.to_string()), &[]),
        };
        let open = matches!(answer, Answer::Value(_)).then_some((stream, held));
        Some((answer, open))
    };
    Ok(stream::unfold(Some((stream, held)), next).boxed())
}

fn failed(RemoteError { status, message, class, code }: RemoteError, believed: &[Status]) -> Answer {
    match status {
        Status::Lost if believed.contains(&status) => Answer::Lost(message),
        Status::Unsent if believed.contains(&status) => Answer::Unsent(message),
        Status::Refused if believed.contains(&status) => Answer::Refused(message),
        _ => Answer::Failed { message, class, code },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_until_there_is_none_is_woken_by_the_end_of_the_last() {
        let in_flight = InFlight::default();
        assert!(in_flight.none().now_or_never().is_some());
        let [one, other] = [2, 2].map(|max| in_flight.acquire(max).expect("room"));
        assert!(in_flight.acquire(2).is_none());
        let mut none = pin!(in_flight.none());
        drop(one);
        assert!(none.as_mut().now_or_never().is_none());
        drop(other);
        assert!(none.now_or_never().is_some());
    }
}
