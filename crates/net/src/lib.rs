#![doc = include_str!("../README.md")]

mod accepted;
mod descriptors;
pub mod names;
mod peer;
mod prompt;
mod remote;
mod retry;
pub mod secret;
mod stream;
pub mod tls;

pub use accepted::Accepted;
pub use descriptors::{allow_descriptors, refuse_descriptors};
pub use peer::{Peer, Peers, User, name_of};
pub use prompt::Prompt;
pub use remote::{ConnectError, ParseRemoteError, Remote, secure};
pub use retry::{Backoff, random_part};
pub use stream::Stream;

/// Does work on a thread that nothing waits for, not even the end of the process: work that cannot be interrupted, and
/// that changes nothing.
pub fn unawaited(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
