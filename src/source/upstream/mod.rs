//! Upstream registers: follows the masters of registers elsewhere, and calls masters through them.

mod follower;
mod left_out;
mod line;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::follower::Follower;
use crate::clock::Moment;
use crate::model::json;
use crate::net::Remote;
use crate::store::{Feed, FeedState, Identity, Publisher};
use crate::task::{Reload, Stop};
use crate::tunnel::upstream::FOLLOWER_ROOM;
use crate::tunnel::{InFlight, RegisterAddr, Settings};
use crate::wildcard::Wildcards;

/// How often a register is asked to confirm that it has reported everything.
const PROOF_INTERVAL: Duration = Duration::from_secs(2);

/// How many commands of registers may be queued.
const COMMAND_QUEUE: usize = 16;

/// `[[upstream]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name in status and logs.
    pub name: String,
    /// Required: the address and port of the register, which must be Roster's; after `tls://` for TLS. Or its Unix
    /// socket, as `unix:///path`.
    pub connect: String,
    /// A file with the authorities that may sign its certificate; none: those that this machine trusts. Read at each
    /// connection.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub ca: Option<PathBuf>,
    /// The user (uid) that a local register without TLS must run as before it is sent the token; none: any user.
    pub register_user: Option<u32>,
    /// Required: a file with the token. Read at each connection.
    #[serde(deserialize_with = "crate::rule::path")]
    pub token: PathBuf,
    /// How many calls through the register may be under way to each master.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_calls_per_master: usize,
    /// The longest message, which should be no less than the register's.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_message: ByteSize,
    /// How many masters a register may report.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_masters: usize,
    /// About how much memory the masters that a register reports may take.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 4>")]
    pub max_metadata: ByteSize,
    /// How long, from the connection on, the register may give masters from before its restart to come back.
    #[serde(with = "crate::rule::WithinADay")]
    pub settle: Duration,
    /// Which registers are also followed, and sent the token, if this one or one of them announces them: patterns of
    /// `host:port`, or of `unix:///path`. Empty: none.
    pub join: Wildcards,
    /// How many registers are also followed if this one or one of them announces them.
    pub max_learned: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "upstream".into(),
            connect: String::new(),
            ca: None,
            register_user: None,
            token: PathBuf::new(),
            max_calls_per_master: 1_024,
            max_message: ByteSize::mib(1),
            max_masters: 20_000,
            max_metadata: ByteSize::mib(128),
            settle: Duration::from_secs(60),
            join: Wildcards::default(),
            max_learned: 16,
        }
    }
}

impl Config {
    pub(crate) fn feed(&self) -> Feed {
        Feed::of_instances(&self.name, "upstream").of(Identity::new(&self.connect))
    }

    fn settings(&self) -> Settings {
        let bytes = self.max_message.as_u64() as usize;
        let mut settings = Settings::default();
        settings.bounds.bytes = bytes;
        // One master, or one value, nested as deep as the register allows must not end the connection.
        settings.received_depth = 2 * json::MAX_DEPTH;
        settings.queue_bytes = settings.queue_bytes.max(bytes);
        settings.stream_bytes = FOLLOWER_ROOM;
        settings
    }
}

/// A command of a register, as it sends them to masters.
enum RegisterCommand {
    Join { teller: Remote, addresses: Vec<RegisterAddr> },
    Leave { addresses: Vec<RegisterAddr> },
}

/// Follows the register, and those that it announces, until the stop; then waits until the calls under way have ended.
pub async fn run(config: Config, publisher: Publisher, reload: Reload, stop: Stop) {
    let own = match config.connect.parse::<Remote>() {
        Ok(own) => own,
        // A validated configuration has an address.
        Err(error) => {
            publisher.feed().enter(FeedState::Down, error.to_string());
            return;
        }
    };
    let (commands, given) = mpsc::channel(COMMAND_QUEUE);
    let (registers, calls) = (HashMap::new(), InFlight::default());
    let config = Arc::new(config);
    let mut group = UpstreamGroup { own, config, publisher, reload, calls: calls.clone(), commands, registers };
    tokio::select! {
        () = group.keep(given) => {}
        () = async { stop.requested().await; calls.none().await } => {}
    }
}

/// A register of the configuration, and those that it, or one of these, announced.
///
/// A register's commands only affect its own group: none can make this sidecar leave what is configured elsewhere. All
/// of a group get the same token, and answer the calls of local clients; so only registers allowed by `join` are
/// joined. And a token used over TLS is not sent in the clear.
struct UpstreamGroup {
    own: Remote,
    config: Arc<Config>,
    publisher: Publisher,
    reload: Reload,
    /// The calls under way through all of them.
    calls: InFlight,
    commands: mpsc::Sender<RegisterCommand>,
    registers: HashMap<Remote, FollowedRegister>,
}

/// A followed register, and what makes the sidecar leave it.
struct FollowedRegister {
    publisher: Publisher,
    leave: CancellationToken,
}

type Following = FuturesUnordered<BoxFuture<'static, ()>>;

impl UpstreamGroup {
    async fn keep(&mut self, mut given: mpsc::Receiver<RegisterCommand>) {
        let mut following = Following::new();
        following.push(self.follow(self.own.clone(), self.publisher.clone()));
        let mut reload = self.reload.clone();
        loop {
            let has_left_own = !self.registers.contains_key(&self.own);
            tokio::select! {
                Some(()) = following.next() => {}
                Some(command) = given.recv() => match command {
                    RegisterCommand::Join { teller, addresses } => following.extend(self.join(&teller, addresses)),
                    RegisterCommand::Leave { addresses } => addresses.iter().for_each(|address| self.leave(address)),
                },
                () = reload.requested() => if has_left_own {
                    following.push(self.follow(self.own.clone(), self.publisher.clone()));
                },
                // It holds what it should: nothing.
                () = tokio::time::sleep(PROOF_INTERVAL), if has_left_own => self.publisher.feed().prove(Moment::now()),
            }
        }
    }

    /// The task that follows a register until it is left.
    fn follow(&mut self, remote: Remote, publisher: Publisher) -> BoxFuture<'static, ()> {
        let leave = CancellationToken::new();
        self.registers.insert(remote.clone(), FollowedRegister { publisher: publisher.clone(), leave: leave.clone() });
        let (config, reload) = (self.config.clone(), self.reload.clone());
        let (calls, commands) = (self.calls.clone(), self.commands.clone());
        let mut follower = Follower { remote, config, publisher, reload, calls, commands };
        async move {
            tokio::select! {
                // Its data was removed when it was left: it must not report any more.
                biased;
                () = leave.cancelled() => {}
                () = follower.keep() => {}
            }
        }
        .boxed()
    }

    /// Also follows those of `addresses` that are not followed yet, as far as allowed.
    fn join(&mut self, teller: &Remote, addresses: Vec<RegisterAddr>) -> Vec<BoxFuture<'static, ()>> {
        let mut new = Vec::new();
        let mut refused = None;
        for address in addresses {
            match self.may_join(teller, &address) {
                Ok(remote) if self.registers.contains_key(&remote) => {}
                Ok(remote) => {
                    let source = &self.config.name;
                    tracing::info!(source, register = %remote, "joins a register, by a command");
                    let publisher = match remote == self.own {
                        true => self.publisher.clone(),
                        false => self.publisher.for_another(Feed::learned(format!("{}/{remote}", self.config.name))),
                    };
                    new.push(self.follow(remote, publisher));
                }
                Err(why) => refused = Some((address, why)),
            }
        }
        if let Some((address, why)) = refused {
            // One line per command: other registers it names have the same problem.
            tracing::warn!(source = self.config.name, register = %address, why, "does not join a register");
        }
        new
    }

    fn may_join(&self, teller: &Remote, address: &RegisterAddr) -> Result<Remote, &'static str> {
        let remote = address.to_string().parse::<Remote>().map_err(|_| "it has no address")?;
        let is_allowed = self.config.join.is_match(remote.to_string().trim_start_matches("tls://"));
        if remote != self.own && !is_allowed {
            return Err("`join` of this [[upstream]] does not allow it");
        }
        let learned = self.registers.keys().filter(|remote| **remote != self.own).count();
        let is_full = learned >= self.config.max_learned && !self.registers.contains_key(&remote);
        if is_full && remote != self.own {
            return Err("there are max_learned already");
        }
        if !teller.may_share_with(&remote) {
            return Err("the token was shown over TLS, and would be shown without it");
        }
        Ok(remote)
    }

    /// Leaves a register, even a configured one, as PHP masters do. Calls under way through it are lost.
    fn leave(&mut self, address: &RegisterAddr) {
        let remote = address.to_string().parse::<Remote>();
        let Some((remote, followed)) = remote.ok().and_then(|remote| self.registers.remove_entry(&remote)) else {
            return;
        };
        tracing::info!(source = self.config.name, register = %remote, "leaves a register, by a command");
        followed.leave.cancel();
        if remote != self.own {
            return followed.publisher.dismiss();
        }
        let feed = self.publisher.feed();
        feed.enter(FeedState::Live, "left by a command; SIGHUP or a start joins it again");
        feed.prove(Moment::now());
        self.publisher.clear_masters();
    }
}
