//! Secrets: the tokens of masters, and the key that signs what PHP masters run. They never appear in logs.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{Config, token_file};
use crate::permissions::own::NotOwn;
use crate::secret::{self, NoToken};
use crate::tunnel::Token;
use crate::tunnel::php::{Closures, SigningKey};

/// The token of the PHP package's public examples. Everybody knows it, so it is accepted on loopback only.
pub const EXAMPLE_TOKEN: &str = "register-center-token-2024";

/// The minimum length of a token that is used beyond loopback.
const MIN_TOKEN_BYTES: usize = 16;

/// The current secrets.
#[derive(Debug)]
pub(super) struct Secrets {
    tokens: Vec<[u8; 32]>,
    pub(super) closures: Closures,
}

/// Why the secrets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {path}: {reason}")]
    Read { key: &'static str, path: PathBuf, reason: io::Error },
    #[error("{path} is empty")]
    Empty { key: &'static str, path: PathBuf },
    #[error("register.tokens: {path}: {why}")]
    NoToken { path: PathBuf, why: NoToken },
    #[error(
        "{path} holds the token of the public examples, which everybody knows, and register.listen = \
         {listen:?} is not loopback; take that token out"
    )]
    Public { path: PathBuf, listen: String },
    #[error(
        "{path} holds a token of fewer than {MIN_TOKEN_BYTES} bytes, and register.listen = {listen:?} \
         is not loopback; `openssl rand -hex 16` makes a token that nobody guesses"
    )]
    Short { path: PathBuf, listen: String },
    #[error(
        "is not set, and no token can be made in {path}: {reason}; set register.tokens to a file, or \
         shared.state to a directory that Roster may write to, or register.listen to \"\" for no register"
    )]
    Make { path: PathBuf, reason: io::Error },
    #[error(
        "is not set, and shared.state, where Roster would keep a token that it makes, is \"\"; set one of \
         them, or register.listen to \"\" for no register"
    )]
    Nowhere,
    #[error("is not set, and {path} holds no token of Roster's own: {why}")]
    NotOwn { path: PathBuf, why: NotOwn },
}

impl SecretError {
    /// The key of the setting to look at.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Read { key, .. } | Self::Empty { key, .. } => key,
            Self::NoToken { .. }
            | Self::Public { .. }
            | Self::Short { .. }
            | Self::Make { .. }
            | Self::Nowhere
            | Self::NotOwn { .. } => "tokens",
        }
    }
}

impl Secrets {
    /// Reads them; the tokens from `made` if the configuration names no file. Beyond loopback, weak tokens are refused.
    pub(super) fn read(config: &Config, made: &Path, is_loopback: bool) -> Result<Self, SecretError> {
        let path = config.tokens.as_deref().unwrap_or(made);
        let text = if config.tokens.is_some() { text("tokens", path) } else { token_file::read(made) }?;
        let tokens = secret::tokens(&text);
        let tokens = tokens.map_err(|why| SecretError::NoToken { path: path.to_owned(), why })?;
        if tokens.is_empty() {
            return Err(SecretError::Empty { key: "tokens", path: path.to_owned() });
        }
        let (path, listen) = (|| path.to_owned(), || config.listen.clone());
        if !is_loopback && tokens.contains(&EXAMPLE_TOKEN) {
            return Err(SecretError::Public { path: path(), listen: listen() });
        }
        if !is_loopback && tokens.iter().any(|token| token.len() < MIN_TOKEN_BYTES) {
            return Err(SecretError::Short { path: path(), listen: listen() });
        }
        let key = config.signing_key.as_deref().map(signing_key).transpose()?;
        let tokens = tokens.into_iter().map(digest).collect();
        Ok(Self { tokens, closures: Closures { key, bounds: config.bounds() } })
    }

    /// The secrets of a register that only this sidecar's workers connect to.
    pub(super) fn none(config: &Config) -> Self {
        Self { tokens: Vec::new(), closures: Closures { key: None, bounds: config.bounds() } }
    }

    /// Whether a token is valid; the result identifies it, so that it can be checked again later. Takes the same time
    /// however similar the token is to a valid one.
    pub(super) fn admit(&self, token: &Token) -> Option<Admitted> {
        let shown = digest(&token.0);
        let is_ours = self.tokens.iter().fold(Choice::from(0), |found, ours| found | ours.ct_eq(&shown));
        bool::from(is_ours).then_some(Admitted(shown))
    }

    pub(super) fn still_admits(&self, admitted: &Admitted) -> bool {
        self.tokens.contains(&admitted.0)
    }
}

/// Proof that a token was valid.
#[derive(Clone, Debug)]
pub(super) struct Admitted([u8; 32]);

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn signing_key(path: &Path) -> Result<SigningKey, SecretError> {
    let text = text("signing_key", path)?;
    let key = secret::lines(&text).next();
    let key = key.ok_or_else(|| SecretError::Empty { key: "signing_key", path: path.to_owned() })?;
    Ok(SigningKey(key.as_bytes().to_vec()))
}

fn text(key: &'static str, path: &Path) -> Result<String, SecretError> {
    secret::warn_if_open(&format!("register.{key}"), path);
    secret::read(path).map_err(|reason| SecretError::Read { key, path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read from a file with these tokens, or why it is refused.
    fn read(tokens: &str, is_loopback: bool) -> Result<Secrets, SecretError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, tokens).expect("written");
        let config = Config { tokens: Some(path), listen: "0.0.0.0:8010".into(), ..Config::default() };
        Secrets::read(&config, Path::new("not this one"), is_loopback)
    }

    fn admit(secrets: &Secrets, token: &str) -> Option<Admitted> {
        secrets.admit(&Token(token.into()))
    }

    #[test]
    fn any_of_the_tokens_admits_and_nothing_else() {
        let secrets = read("one\n\n two \n", true).expect("secrets");
        for token in ["", "tw", EXAMPLE_TOKEN] {
            assert!(admit(&secrets, token).is_none(), "{token}");
        }
        let [one, two] = ["one", "two"].map(|token| admit(&secrets, token).expect("admitted"));
        let changed = read("two", true).expect("secrets");
        assert!(changed.still_admits(&two) && !changed.still_admits(&one));
    }

    #[test]
    fn a_comment_or_a_mark_is_no_token() {
        let secrets = read("\u{feff}one\r\n# two\r\n", true).expect("secrets");
        assert!(admit(&secrets, "one").is_some());
        assert!(["# two", "two", "\u{feff}one"].iter().all(|token| admit(&secrets, token).is_none()));
        assert!(matches!(read("\u{feff}\r\n# two\r\n", true), Err(SecretError::Empty { .. })));
    }

    #[test]
    fn a_file_of_which_one_line_is_no_token_is_refused() {
        let Err(why) = read("one\nreturn [\n", true) else { panic!("it was taken") };
        assert!(why.to_string().contains("tokens: line 2 is no token"), "{why}");
    }

    #[test]
    fn the_token_that_everybody_knows_is_for_loopback_alone() {
        for tokens in [EXAMPLE_TOKEN.to_owned(), format!("{}\n{EXAMPLE_TOKEN}\r\n", "x".repeat(16))] {
            assert!(matches!(read(&tokens, false), Err(SecretError::Public { .. })));
            assert!(admit(&read(&tokens, true).expect("secrets"), EXAMPLE_TOKEN).is_some());
        }
    }

    #[test]
    fn a_short_token_is_for_loopback_alone() {
        let [short, long] = [15, 16].map(|length| "x".repeat(length));
        assert!(matches!(read(&format!("{long}\n{short}"), false), Err(SecretError::Short { .. })));
        assert!(read(&long, false).is_ok() && read(&short, true).is_ok());
    }
}
