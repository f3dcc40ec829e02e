//! A call over a tunnel: the answers to it, and how many are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::php::NotPhp;
use super::{RemoteError, SendError, Stream, StreamError};
use crate::model::{Answer, Answers, Refused};

/// How the classes of errors begin that are the tunnel's own words.
const OWN: &str = "roster:";

/// Of an error of a master, or between registers: the call was refused and not executed, for there is too much to do,
/// or the master is leaving.
pub const REFUSED: &str = "roster:refused";

/// Of an error between registers: the connection to the master was lost, and the call may have been executed or not.
pub const LOST: &str = "roster:lost";

/// The same, of a call that was not sent to the master.
pub const UNSENT: &str = "roster:unsent";

/// How many there are of something of which there may be so many.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Arc<AtomicUsize>);

/// One of them, until dropped.
#[derive(Debug)]
pub struct OneMore(UnderWay);

impl UnderWay {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        while self.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn one_more(&self, max: usize) -> Option<OneMore> {
        let one_more = |n| (n < max).then_some(n + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| OneMore(self.clone()))
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a call could not be made.
#[derive(Debug, thiserror::Error)]
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

/// What comes on a call's stream, as its answers. Of the tunnel's own classes of errors, the other end is believed those
/// of `believed`. Until the last answer is taken, `held` is held.
pub fn answers(
    stream: Result<Stream, CallError>,
    believed: &'static [&'static str],
    held: impl Send + 'static,
) -> Result<Answers, Refused> {
    let stream = match stream {
        Ok(stream) => stream,
        Err(CallError::Send(error @ (SendError::Full | SendError::NoMemory | SendError::Ended(_)))) => {
            return Err(error.into());
        }
        // No other master would take it either.
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

/// Whether a class is one of the tunnel's own words, which no method may use.
pub fn is_own(class: &str) -> bool {
    class.starts_with(OWN)
}

fn failed(RemoteError { message, class, code }: RemoteError, believed: &[&str]) -> Answer {
    match class.as_deref().filter(|class| believed.contains(class)) {
        Some(LOST) => Answer::Lost(message),
        Some(UNSENT) => Answer::Unsent(message),
        Some(REFUSED) => Answer::Refused(message),
        _ => Answer::Failed { message, class: class.filter(|class| !is_own(class)), code },
    }
}
