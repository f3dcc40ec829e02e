//! Secrets: the tokens that masters show, and the key that signs what PHP masters run. They never appear in logs.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Config;
use crate::secret;
use crate::tunnel::Token;
use crate::tunnel::php::{Closures, SigningKey};

/// The token of the PHP package's public examples: taken on loopback, where no other is set.
pub const EXAMPLE_TOKEN: &str = "register-center-token-2024";

/// What is secret, as it is now.
#[derive(Debug)]
pub(super) struct Secrets {
    tokens: Vec<[u8; 32]>,
    pub(super) closures: Closures,
}

/// Why the secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read register.{key} from {path}: {source}")]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("register.{key}: {path} is empty")]
    Empty { key: &'static str, path: PathBuf },
    #[error(
        "register.listen = {0:?} is not loopback: set register.tokens to a file with tokens of your own, for everybody \
         knows the one of the examples"
    )]
    NoToken(String),
}

impl Secrets {
    /// Reads them; the listener is at `listen`.
    pub(super) fn read(config: &Config, is_loopback: bool) -> Result<Self, SecretError> {
        let tokens = match &config.tokens {
            Some(path) => lines("tokens", path)?,
            None => vec![EXAMPLE_TOKEN.to_owned()],
        };
        if !is_loopback && tokens.iter().all(|token| token == EXAMPLE_TOKEN) {
            return Err(SecretError::NoToken(config.listen.clone()));
        }
        let key = match &config.signing_key {
            Some(path) => lines("signing_key", path)?.into_iter().next().map(|key| SigningKey(key.into_bytes())),
            None => None,
        };
        let tokens = tokens.iter().map(|token| digest(token)).collect();
        Ok(Self { tokens, closures: Closures { key, bounds: config.bounds() } })
    }

    /// Whether a token is one of ours; which one then, so that it can be asked again later. It takes the same time
    /// whichever it is like, and however much.
    pub(super) fn admit(&self, token: &Token) -> Option<Admitted> {
        let shown = digest(&token.0);
        let is_ours = self.tokens.iter().fold(false, |found, ours| found | is_same(ours, &shown));
        is_ours.then_some(Admitted(shown))
    }

    pub(super) fn still_admits(&self, admitted: &Admitted) -> bool {
        self.tokens.contains(&admitted.0)
    }
}

/// That a token was one of ours.
#[derive(Clone, Debug)]
pub(super) struct Admitted([u8; 32]);

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn is_same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

fn lines(key: &'static str, path: &Path) -> Result<Vec<String>, SecretError> {
    secret::warn_if_open(&format!("register.{key}"), path);
    let read = |source| SecretError::Read { key, path: path.to_owned(), source };
    let text = secret::read(path).map_err(read)?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(SecretError::Empty { key, path: path.to_owned() }) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_tokens_admits_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, "one\n\n two \n").expect("written");
        let config = Config { tokens: Some(path.clone()), ..Config::default() };
        let secrets = Secrets::read(&config, false).expect("secrets");
        let admit = |token: &str| secrets.admit(&Token(token.into()));
        assert!(admit("one").is_some() && admit("two").is_some());
        assert!(admit("").is_none() && admit("tw").is_none() && admit(EXAMPLE_TOKEN).is_none());
        std::fs::write(&path, "two").expect("written");
        let changed = Secrets::read(&config, false).expect("secrets");
        assert!(changed.still_admits(&admit("two").expect("admitted")));
        assert!(!changed.still_admits(&admit("one").expect("admitted")));
    }

    #[test]
    fn the_token_that_everybody_knows_is_for_loopback_only() {
        let config = Config { listen: "0.0.0.0:8010".into(), ..Config::default() };
        assert!(matches!(Secrets::read(&config, false), Err(SecretError::NoToken(_))));
        assert!(Secrets::read(&config, true).expect("secrets").admit(&Token(EXAMPLE_TOKEN.into())).is_some());
    }
}
