//! A server: where Redis is, as whom, and in which of its databases.

use std::fmt;
use std::str::FromStr;

use roster_net::Remote;
use serde::{Deserialize, Serialize};

const PLAIN: &str = "redis://";
const TLS: &str = "rediss://";
const UNIX: &str = "unix://";

const DEFAULT_PORT: u16 = 6379;

/// `redis://[user@]host[:port][/database]`, the same with `rediss://` for TLS, or `unix:///path[?db=database]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server {
    pub(super) remote: Remote,
    /// None: the default user.
    pub(super) user: Option<String>,
    pub(super) database: u16,
}

/// Why a text names no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    #[error("expected `redis://host:port/database`, `rediss://…` for TLS, or `unix:///path?db=database`")]
    Form,
    #[error(
        "a password has no place in a configuration: write it into a file, and name that with `queue.password_file`"
    )]
    Password,
}

impl FromStr for Server {
    type Err = NoServer;

    fn from_str(text: &str) -> Result<Self, NoServer> {
        let number = |text: &str| text.parse().map_err(|_| NoServer::Form);
        if text.starts_with(UNIX) {
            let (path, database) = match text.split_once("?db=") {
                Some((path, database)) => (path, number(database)?),
                None => (text, 0),
            };
            let is_path = !path.contains(['?', '#']);
            let remote = path.parse().ok().filter(|_| is_path).ok_or(NoServer::Form)?;
            return Ok(Self { remote, user: None, database });
        }
        let (tls, rest) = match (text.strip_prefix(PLAIN), text.strip_prefix(TLS)) {
            (Some(rest), _) => ("", rest),
            (_, Some(rest)) => ("tls://", rest),
            _ => return Err(NoServer::Form),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(NoServer::Password),
            Some(("", _)) => return Err(NoServer::Form),
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let (host, database) = match rest.split_once('/') {
            Some((host, "")) => (host, 0),
            Some((host, database)) => (host, number(database)?),
            None => (rest, 0),
        };
        // The colons of an IPv6 address lie within brackets.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = if has_port { format!("{tls}{host}") } else { format!("{tls}{host}:{DEFAULT_PORT}") };
        Ok(Self { remote: address.parse().map_err(|_| NoServer::Form)?, user, database })
    }
}

impl Server {
    pub(crate) fn is_tls(&self) -> bool {
        self.remote.is_tls()
    }
}

impl TryFrom<String> for Server {
    type Error = NoServer;

    fn try_from(text: String) -> Result<Self, NoServer> {
        text.parse()
    }
}

impl From<Server> for String {
    fn from(server: Server) -> Self {
        server.to_string()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        match &self.remote {
            Remote::Tcp { host, port, tls } => {
                write!(f, "{}{user}{host}:{port}/{}", if *tls { TLS } else { PLAIN }, self.database)
            }
            other if self.database == 0 => write!(f, "{other}"),
            other => write!(f, "{other}?db={}", self.database),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_that_says_nothing_secret() {
        for (text, same) in [
            ("redis://db", "redis://db:6379/0"),
            ("redis://queue@db.example:7000/3", "redis://queue@db.example:7000/3"),
            ("rediss://[::1]/", "rediss://[::1]:6379/0"),
            ("redis://[::1]:6380", "redis://[::1]:6380/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ] {
            let server: Server = text.parse().expect("a server");
            assert_eq!(server.to_string(), same);
            assert_eq!(same.parse(), Ok(server));
        }
        for wrong in [
            "",
            "db:6379",
            "http://db",
            "redis://",
            "redis://db/x",
            "redis://db/70000",
            "redis://@db",
            "redis://a b",
            "unix://run/redis.sock",
            "unix:///run/redis.sock?db=x",
            "unix:///run/redis.sock?password=x",
        ] {
            assert_eq!(wrong.parse::<Server>(), Err(NoServer::Form), "{wrong}");
        }
        for secret in ["redis://:s3cret@db", "redis://user:s3cret@db:6379/0"] {
            let refused = secret.parse::<Server>().expect_err("it is in the clear").to_string();
            assert!(!refused.contains("s3cret") && refused.contains("queue.password_file"), "{refused}");
        }
    }
}
