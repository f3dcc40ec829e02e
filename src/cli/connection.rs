//! Options that select the sidecar to ask, and the timeout.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use roster::default_paths;
use roster::net::{Address, AddressError};
use roster::rule::{self, NoDuration};
use roster::thrift::client::Client;

#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// The sidecar: `unix:///path` or `host:port` [default: the socket in /run/roster, else that in the user's runtime
    /// folder]
    #[arg(long, env = "ROSTER_ADDRESS", hide_env_values = true, value_parser = address)]
    address: Option<Address>,
    /// How long to wait for an answer; a bare number is in seconds
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = positive)]
    timeout: Duration,
}

impl Connection {
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the sidecar was named explicitly.
    pub(crate) fn is_told(&self) -> bool {
        self.address.is_some()
    }

    /// Whether a sidecar listens at one of the default addresses.
    pub(crate) fn is_found() -> bool {
        default_paths::found().is_some_and(|socket| default_paths::is_live(&socket))
    }

    /// The path of the shared file of that sidecar, unless its configuration sets another.
    pub(crate) fn shared_file(&self) -> Option<PathBuf> {
        let socket = match &self.address {
            Some(Address::Unix(socket)) => Some(socket.clone()),
            Some(Address::Tcp(_)) => None,
            None => default_paths::found(),
        };
        socket.map(|socket| default_paths::shared_file_beside(&socket))
    }

    pub(crate) fn client(self) -> Client {
        match self.address {
            Some(address) => Client::new(address, self.timeout),
            None => Client::local(self.timeout),
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: AddressError| match text.starts_with('/') {
        true => format!("{error}; did you mean `unix://{text}`, in `--address` or ROSTER_ADDRESS?"),
        false => format!("{error}, in `--address` or ROSTER_ADDRESS"),
    })
}

/// A duration as people write it: `250ms`, `5s`, and `5` for seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    rule::duration(text).map_err(|error| match error {
        NoDuration::Form(error) => format!("{error}: write a duration such as \"5\", of seconds, or \"250ms\""),
        error => error.to_string(),
    })
}

/// The same where a bare number may be meant of anything; `cure` says what to write instead of what is no duration.
pub(crate) fn with_unit(text: &str, cure: &str) -> Result<Duration, String> {
    if let Ok(number) = text.parse::<u64>() {
        return Err(format!("{number} of what? Write \"{number}h\" or \"{number}m\""));
    }
    rule::duration(text).map_err(|error| match error {
        NoDuration::Form(_) => cure.to_owned(),
        error => error.to_string(),
    })
}

/// Anything longer is a slip; and the clock has an end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        duration if duration > LONGEST => Err("it is more than a day".into()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mere_path_is_asked_whether_it_is_of_a_socket() {
        assert_eq!(address("unix:///run/x.sock"), Ok(Address::Unix("/run/x.sock".into())));
        let told = address("/run/x.sock").expect_err("no address");
        assert!(told.contains("`unix:///run/x.sock`") && told.contains("ROSTER_ADDRESS"), "{told}");
    }

    #[test]
    fn a_mere_number_is_of_seconds() {
        assert_eq!(duration("5"), duration("5s"));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("x").is_err_and(|told| told.ends_with("such as \"5\", of seconds, or \"250ms\"")));
    }

    #[test]
    fn where_a_unit_is_required_a_bare_number_is_asked_for_one() {
        assert_eq!(with_unit("30m", "write how long"), Ok(Duration::from_secs(1_800)));
        assert_eq!(with_unit("30", "write how long"), Err("30 of what? Write \"30h\" or \"30m\"".to_owned()));
        assert_eq!(with_unit("soon", "write how long"), Err("write how long".to_owned()));
        type Read = fn(&str) -> Result<Duration, String>;
        let reads: [Read; 2] = [duration, |text| with_unit(text, "write how long")];
        for read in reads {
            assert!(read("5M").is_err_and(|told| told.contains("for minutes write \"5m\"")));
        }
    }

    #[test]
    fn a_timeout_is_neither_nothing_nor_more_than_a_day() {
        assert_eq!(positive("1day"), Ok(LONGEST));
        for text in ["0", "0s", "25h", "86401", "500000000000years", "soon", "-1"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
