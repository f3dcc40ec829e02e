//! Upstream registers: follows the masters of registers elsewhere, and calls them through these.

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
use crate::access::Wildcards;
use crate::clock::Moment;
use crate::model::json;
use crate::net::Remote;
use crate::store::{Feed, FeedState, Identity, Publisher};
use crate::task::{Reload, Stop};
use crate::tunnel::{InFlight, RegisterAddr, Settings};

/// How often a register is asked whether it has reported all.
const PROOF_INTERVAL: Duration = Duration::from_secs(2);

/// How many commands of registers wait to be carried out.
const COMMAND_QUEUE: usize = 16;

/// `[[upstream]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What status and logs call it.
    pub name: String,
    /// Required: the address and port of the register, which is one of Roster's; after `tls://` if it is spoken to by
    /// TLS. Or its Unix socket, as `unix:///path`.
    pub connect: String,
    /// A file with the authorities that sign its certificate; none: those that this machine believes. Read anew at each
    /// connection.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub ca: Option<PathBuf>,
    /// The user (uid) of whose processes registers on this machine must be that are not spoken to by TLS, or they are
    /// not shown the token; none: whoever listens is.
    pub register_user: Option<u32>,
    /// Required: a file with the token to show. Read anew at each connection.
    #[serde(deserialize_with = "crate::rule::path")]
    pub token: PathBuf,
    /// How many calls through the register may be under way to each master.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_calls_per_master: usize,
    /// The longest message, which should be no less than the register's.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_message: ByteSize,
    /// How many masters a register may tell of.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_masters: usize,
    /// About how much memory the masters may take that a register tells of.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 4>")]
    pub max_metadata: ByteSize,
    /// How long, from the connection on, the register may give masters time to come back that it knew before its
    /// restart.
    #[serde(with = "crate::rule::WithinADay")]
    pub settle: Duration,
    /// Which registers are followed besides, and shown the token, when this one or one of them tells of them: patterns
    /// of `host:port`, or of `unix:///path`. Empty: none.
    pub join: Wildcards,
    /// How many registers are followed besides, when this one or one of them tells of them.
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
        // One master, or one value, that is nested as deep as the register allows must not end the connection.
        settings.received_depth = 2 * json::MAX_DEPTH;
        settings.queue_bytes = settings.queue_bytes.max(bytes);
        settings
    }
}

/// What a register commands, as it commands masters.
enum RegisterCommand {
    Join { teller: Remote, addresses: Vec<RegisterAddr> },
    Leave { addresses: Vec<RegisterAddr> },
}

/// Follows the register, and those that it tells of, until the stop; then, until the calls under way have ended.
pub async fn run(config: Config, publisher: Publisher, reload: Reload, stop: Stop) {
    let own = match config.connect.parse::<Remote>() {
        Ok(own) => own,
        // A checked configuration has an address.
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

/// A register of the configuration, and those that it, or one of these, named.
///
/// What a register commands concerns its own group: none can have this sidecar leave what has been configured
/// elsewhere. All of a group are shown the same token, and answer the calls of local clients; so only those are joined
/// that `join` allows. And what was shown over TLS is not shown in the open.
struct UpstreamGroup {
    own: Remote,
    config: Arc<Config>,
    publisher: Publisher,
    reload: Reload,
    /// Under way through all of them.
    calls: InFlight,
    commands: mpsc::Sender<RegisterCommand>,
    registers: HashMap<Remote, FollowedRegister>,
}

/// A register that is followed, and what has it left.
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
                // It holds what it is to hold: nothing.
                () = tokio::time::sleep(PROOF_INTERVAL), if has_left_own => self.publisher.feed().prove(Moment::now()),
            }
        }
    }

    /// What follows a register, until it is left.
    fn follow(&mut self, remote: Remote, publisher: Publisher) -> BoxFuture<'static, ()> {
        let leave = CancellationToken::new();
        self.registers.insert(remote.clone(), FollowedRegister { publisher: publisher.clone(), leave: leave.clone() });
        let (config, reload) = (self.config.clone(), self.reload.clone());
        let (calls, commands) = (self.calls.clone(), self.commands.clone());
        let mut follower = Follower { remote, config, publisher, reload, calls, commands };
        async move {
            tokio::select! {
                // What it reported was taken away when it was left: it must report no more.
                biased;
                () = leave.cancelled() => {}
                () = follower.keep() => {}
            }
        }
        .boxed()
    }

    /// Follows also those of `addresses` that are not followed yet, as far as that may be.
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
            // One line a command: what else it names suffers from the same.
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

    /// Leaves a register, as PHP masters do also one that they were started with. Calls under way through it are lost.
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
