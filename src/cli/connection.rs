//! The options that say which sidecar is asked, and how long.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use roster::net::Address;
use roster::thrift::client::Client;

use super::place;

#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// The sidecar: `unix:///path` or `host:port` [default: the socket in /run/roster or the user's runtime folder,
    /// else 127.0.0.1:9090]
    #[arg(long, env = "ROSTER_ADDRESS", hide_env_values = true)]
    address: Option<Address>,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = positive)]
    timeout: Duration,
}

impl Connection {
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether somebody said which sidecar is meant.
    pub(crate) fn is_told(&self) -> bool {
        self.address.is_some()
    }

    /// Whether there is a socket of the sidecar that is meant when nobody says.
    pub(crate) fn is_found() -> bool {
        matches!(place::default_address(), Address::Unix(_))
    }

    /// Where the shared file of that sidecar lies, unless its configuration says otherwise.
    pub(crate) fn shared_file(&self) -> Option<PathBuf> {
        match &self.address {
            Some(Address::Unix(socket)) => Some(place::shared_file_beside(socket)),
            Some(Address::Tcp(_)) => None,
            None => place::default_shared_file(),
        }
    }

    pub(crate) fn client(self) -> Client {
        Client::new(self.address.unwrap_or_else(place::default_address), self.timeout)
    }
}

/// What is longer is no patience, but a slip; and the clock has an end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        Ok(duration) if duration > LONGEST => Err("it is more than a day".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_neither_nothing_nor_more_than_a_day() {
        assert_eq!(positive("1day"), Ok(LONGEST));
        for text in ["0s", "25h", "500000000000years", "soon"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
