//! The link: the connection to Redis, its clock, and what its errors mean.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::{BoxFuture, FutureExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisConnectionInfo, RedisError, Script, Value};
use roster_net::{ConnectError, secret};
use tokio::time::timeout;

use super::super::Config;
use super::super::change::Refused;
use super::server::Server;
use crate::clock::Moment;

/// How long a connection may take to be made, and a reply to come.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// What a script is given.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments(Vec<Vec<u8>>);

/// A Redis, and the connection while there is one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: Server,
    config: Config,
    up: ArcSwapOption<Up>,
    /// Why there is none.
    down: ArcSwapOption<String>,
}

#[derive(Debug)]
struct Up {
    connection: MultiplexedConnection,
    /// The clock of Redis, in ms since 1970, at some moment between two of ours: all times in it are by its own.
    clock: u64,
    asked: Moment,
    told: Moment,
}

/// Why Redis has not done something.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Failed {
    why: String,
    /// Whether it is known to have done nothing of it, but for what is of data, of which a part may be done.
    pub(super) is_refused: bool,
    /// Whether it is the type of a key alone that is wrong,
    pub(super) is_of_a_key: bool,
    /// or that or something else in Redis, of which all other things may be asked.
    pub(super) is_of_data: bool,
    pub(super) lacks: Option<Lack>,
}

/// What is lacking for a write, while others may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Memory,
    Rights,
}

impl Failed {
    /// Whether Redis may be asked for other things.
    pub(super) fn is_of_this_alone(&self) -> bool {
        self.is_refused || self.is_of_data
    }
}

impl From<Failed> for Refused {
    fn from(failed: Failed) -> Self {
        Self::Unavailable(failed.why)
    }
}

impl Link {
    pub(super) fn new(server: Server, config: Config) -> Self {
        Self { server, config, up: ArcSwapOption::empty(), down: ArcSwapOption::empty() }
    }

    /// Connects. What is returned carries the requests, and ends with the connection.
    pub(super) async fn connect(&self) -> Result<(MultiplexedConnection, BoxFuture<'static, ()>), Failed> {
        let is_linked = AtomicBool::new(false);
        let connecting = async {
            let read = |file: &PathBuf| {
                secret::read(file).map_err(|error| self.no(&format!("cannot read {}: {error}", file.display())))
            };
            let password = self.config.password_file.as_ref().map(read).transpose()?;
            let stream = self.server.remote.connect(self.config.tls(), None).await;
            let stream = stream.map_err(|error| match error {
                ConnectError::NoSocket(path) | ConnectError::NobodyListens(path) => {
                    self.no(&format!("nobody listens at {}: does it run, with this `unixsocket`?", path.display()))
                }
                ConnectError::Denied(path) => self.no(&format!(
                    "the permissions of {}, or of its folder, do not let this user in: see its `unixsocketperm`, and join \
                     the group of the socket",
                    path.display()
                )),
                ConnectError::Plain => self.no(&"it does not speak TLS: write `redis://`"),
                other => self.no(&other),
            })?;
            is_linked.store(true, Ordering::Relaxed);
            stream.forget_unsent().map_err(|error| self.no(&error))?;
            let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
            let info = RedisConnectionInfo::default().set_skip_set_lib_name();
            let connected = MultiplexedConnection::new_with_config(&info, stream, config).await;
            let (mut connection, driver) = connected.map_err(|error| self.failed(&error))?;
            let mut driver: BoxFuture<'static, ()> = driver.boxed();
            tokio::select! {
                biased;
                begun = self.begin(&mut connection, password.as_deref().map(str::trim)) => begun?,
                () = &mut driver => return Err(self.no(&self.ended_early())),
            }
            Ok((connection, driver))
        };
        timeout(TIMEOUT, connecting).await.unwrap_or_else(|_| {
            // Without TLS it takes the handshake for a command that has not come to its end.
            Err(self.no(&match self.server.is_tls() && !is_linked.load(Ordering::Relaxed) {
                true => "it does not answer: where it speaks no TLS, write `redis://`",
                false => "it does not answer",
            }))
        })
    }

    /// Says who asks, and for which database: by our own commands, so that Redis's own words come with its refusal.
    async fn begin(&self, connection: &mut MultiplexedConnection, password: Option<&str>) -> Result<(), Failed> {
        let failed = |error: RedisError| match error.is_io_error() && !error.is_timeout() {
            true => self.no(&self.ended_early()),
            false => self.failed(&error),
        };
        if let Some(password) = password {
            let mut auth = redis::cmd("AUTH");
            self.server.user.iter().for_each(|user| _ = auth.arg(user));
            auth.arg(password).query_async::<()>(connection).await.map_err(failed)?;
        }
        if self.server.database > 0 {
            let select = redis::cmd("SELECT").arg(self.server.database).to_owned();
            select.query_async::<()>(connection).await.map_err(failed)?;
        }
        redis::cmd("TIME").query_async::<Value>(connection).await.map(drop).map_err(failed)
    }

    fn ended_early(&self) -> &'static str {
        match self.server.is_tls() {
            true if self.config.certificate.is_none() => {
                "the connection has ended at once: where it wants certificates of its clients, set `queue.certificate` and \
                 `queue.key`"
            }
            true => {
                "the connection has ended at once: it may not take the certificate of `queue.certificate`, whose authority \
                 its `tls-ca-cert-file` names"
            }
            false => "the connection has ended at once: where it speaks TLS, write `rediss://`",
        }
    }

    /// Asks Redis for its time, and has others use the connection from now on.
    pub(super) async fn keep(&self, connection: &MultiplexedConnection) -> Result<(), Failed> {
        let (mut connection, asked) = (connection.clone(), Moment::now());
        let (seconds, micros): (u64, u64) =
            redis::cmd("TIME").query_async(&mut connection).await.map_err(|error| self.failed(&error))?;
        let clock = seconds * 1_000 + micros / 1_000;
        self.up.store(Some(Up { connection, clock, asked, told: Moment::now() }.into()));
        Ok(())
    }

    /// All is well: whatever is wrong next is news.
    pub(super) fn is_well(&self) {
        self.down.store(None);
    }

    /// There is no connection any more. Whether that is news.
    pub(super) fn lose(&self, why: String) -> bool {
        self.up.store(None);
        self.down.swap(Some(why.clone().into())).is_none_or(|before| *before != why)
    }

    /// The time by the clock of Redis, which is no earlier: to judge by whether something is over.
    pub(super) fn now(&self) -> Result<u64, Failed> {
        self.time_since(|up| up.told)
    }

    /// The time by the clock of Redis, which is no later: to count from where something begins that lasts.
    pub(super) fn latest(&self) -> Result<u64, Failed> {
        self.time_since(|up| up.asked)
    }

    fn time_since(&self, moment: impl FnOnce(&Up) -> Moment) -> Result<u64, Failed> {
        let up = self.up.load();
        let up = up.as_ref().ok_or_else(|| self.is_down())?;
        Ok(up.clock + moment(up).elapsed().as_millis() as u64)
    }

    /// Has Redis run a script.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &Script, arguments: Arguments) -> Result<T, Failed> {
        let mut invocation = script.prepare_invoke();
        arguments.0.iter().for_each(|argument| _ = invocation.arg(argument));
        let mut connection = self.up.load().as_ref().ok_or_else(|| self.is_down())?.connection.clone();
        let reply: Value = invocation.invoke_async(&mut connection).await.map_err(|error| self.failed(&error))?;
        T::from_redis_value(reply).map_err(|_| self.not_understood())
    }

    pub(super) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Failed> {
        let mut connection = self.up.load().as_ref().ok_or_else(|| self.is_down())?.connection.clone();
        let reply: Value = command.query_async(&mut connection).await.map_err(|error| self.failed(&error))?;
        T::from_redis_value(reply).map_err(|_| self.not_understood())
    }

    fn is_down(&self) -> Failed {
        let why = self.down.load().as_ref().map(|why| why.to_string());
        let why = why.unwrap_or_else(|| self.no(&"it is being connected to").why);
        Failed { why, is_refused: true, is_of_a_key: false, is_of_data: false, lacks: None }
    }

    /// It has not answered in time, and may have done what it was asked.
    pub(super) fn unanswered(&self) -> Failed {
        Failed { is_refused: false, ..self.no(&"it does not answer") }
    }

    fn no(&self, why: &dyn std::fmt::Display) -> Failed {
        let why = format!("Redis at {} cannot be used: {why}", self.server);
        Failed { why, is_refused: true, is_of_a_key: false, is_of_data: false, lacks: None }
    }

    fn not_understood(&self) -> Failed {
        let why = format!("what Redis at {} has there is not understood", self.server);
        Failed { why, is_refused: false, is_of_a_key: false, is_of_data: true, lacks: None }
    }

    /// An error in words, that name the server and the cure.
    fn failed(&self, error: &RedisError) -> Failed {
        let detail = error.detail().unwrap_or_default();
        let text = error.to_string();
        let says = |code: &str| error.code() == Some(code) || text.contains(code);
        // Within a script they have no code, but words, which are others since 7.2.
        let lacks_rights = ["NOPERM", "The user executing the script", "ACL failure in script"].into_iter().any(says);
        let cure = if says("OOM") {
            "it has no memory left: raise its `maxmemory`, or have something taken from it"
        } else if says("READONLY") {
            "it is a replica, which takes no jobs: name its master in `queue.backend`"
        } else if says("LOADING") {
            "it still reads its data from the disk"
        } else if says("NOAUTH") {
            "it wants a password: write that into a file, and name the file with `queue.password_file`"
        } else if says("WRONGPASS") {
            "it refuses the password of `queue.password_file`, or the user of `queue.backend`"
        } else if says("without any password configured") {
            "it has no password: take `queue.password_file` out"
        } else if lacks_rights {
            "its rules refuse that to the user of `queue.backend`"
        } else if says("MOVED") || says("CROSSSLOT") || says("CLUSTERDOWN") || says("cluster") {
            "it is a part of a cluster, in which a queue cannot be"
        } else if says("MASTERDOWN") || says("MISCONF") || says("NOREPLICAS") {
            "it takes no writes now"
        } else if error.is_timeout() {
            "it does not answer"
        } else if error.is_io_error() {
            "the connection has ended"
        } else {
            ""
        };
        let why = match (cure, detail) {
            ("", _) => text.clone(),
            (cure, "") => cure.to_owned(),
            (cure, detail) => format!("{cure} ({detail})"),
        };
        let is_refused = !error.is_io_error() && !error.is_timeout();
        let lacks = match (says("OOM"), lacks_rights) {
            (true, _) => Some(Lack::Memory),
            (false, true) => Some(Lack::Rights),
            (false, false) => None,
        };
        let is_of_a_key = says("WRONGTYPE");
        // Of a script that ran: what it found there made it fail.
        let is_of_script = ["user_script", "running script"].into_iter().any(says)
            && !["nknown Redis command", "Script killed"].into_iter().any(says);
        let is_of_data = is_of_a_key || cure.is_empty() && is_of_script;
        let why = match is_of_data {
            true => format!("Redis at {} does not do that with what it has there: {why}", self.server),
            false => self.no(&why).why,
        };
        Failed { why, is_refused, is_of_a_key, is_of_data, lacks }
    }
}

impl Arguments {
    pub(super) fn new(prefix: &str) -> Self {
        Self::default().text(prefix)
    }

    pub(super) fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        self.0.push(text.as_ref().to_vec());
        self
    }

    pub(super) fn number(self, number: u64) -> Self {
        self.text(number.to_string())
    }

    pub(super) fn texts(self, texts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        texts.into_iter().fold(self, Self::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_data_is_no_outage_and_what_is_wrong_with_redis_is_one() {
        let link = Link::new("redis://127.0.0.1:1/0".parse().expect("a server"), Config::default());
        let failed = |said: &str| match redis::parse_redis_value(format!("-{said}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => link.failed(&error.into()),
            other => panic!("{other:?}"),
        };
        let place = "script: 1f2e, on @user_script:10.";
        for said in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            &format!("WRONGTYPE Operation against a key holding the wrong kind of value {place}"),
            &format!("ERR value is not a valid float {place}"),
            &format!("ERR user_script:1: attempt to concatenate a nil value {place}"),
            "ERR Error running script (call to f_1f2e): @user_script:1: ERR value is not a valid float",
        ] {
            let failed = failed(said);
            assert!(failed.is_of_data && failed.is_refused, "{failed:?}");
            assert_eq!(failed.is_of_a_key, said.starts_with("WRONGTYPE"), "{failed:?}");
            assert!(!failed.to_string().contains("cannot be used"), "{failed}");
        }
        for said in [
            "ERR Script killed by user with SCRIPT KILL... script: 92f5, on @user_script:1.",
            "LOADING Redis is loading the dataset in memory",
            &format!("OOM command not allowed when used memory > 'maxmemory'. {place}"),
            &format!("READONLY You can't write against a read only replica. {place}"),
            &format!("NOREPLICAS Not enough good replicas to write. {place}"),
            &format!("NOPERM The user executing the script can't run this command or subcommand {place}"),
            "ERR Error running script (call to f_1f2e): @user_script:1: -OOM command not allowed",
            &format!("ERR Unknown Redis command called from script {place}"),
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "CLUSTERDOWN Hash slot not served",
            "NOAUTH Authentication required.",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "ERR max number of clients reached",
        ] {
            let failed = failed(said);
            assert!(!failed.is_of_data && failed.to_string().contains("cannot be used"), "{failed:?}");
        }
    }
}
