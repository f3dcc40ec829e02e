//! The demonstration: what `roster serve` does when nobody has configured it.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use roster::config::Config;

use super::place;
use super::sample::SERVICE;

const TREE: &str = include_str!("../../examples/tree.toml");
/// As [`roster::register::EXAMPLE_TOKEN`].
const TOKENS: &str = "register-center-token-2024\n";
const PHP_EXAMPLE: &str = "examples/php/get.php";

/// Its configuration, as if it were a file.
pub(crate) fn file() -> (PathBuf, String) {
    let quoted = |path: PathBuf| toml::Value::from(path.to_string_lossy().as_ref()).to_string();
    let text = format!(
        "[thrift]\nunix = {}\n\n[register]\ntokens = {}\n\n[[file]]\npath = {}\n\n[shared]\nstate = \"\"\n",
        quoted(place::user_socket()),
        quoted(token_path()),
        quoted(tree_path())
    );
    (PathBuf::from("the built-in configuration"), text)
}

/// Lays out the tree of nodes for the user to edit, and the token that everybody knows, unless they are there already.
pub(crate) fn lay_out() -> anyhow::Result<()> {
    let folder = place::user_folder();
    if !folder.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    anyhow::ensure!(place::is_own(&folder), "{} belongs to another user", folder.display());
    for (path, text) in [(tree_path(), TREE), (token_path(), TOKENS)] {
        write_new(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The tokens of the demonstration.
pub(crate) fn token_path() -> PathBuf {
    place::user_folder().join("register.token")
}

fn tree_path() -> PathBuf {
    place::user_folder().join("tree.toml")
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What to try in a second terminal.
pub(crate) fn invitation(config: &Config, binary: &Path, masters: &[u32]) -> String {
    let address = address(config);
    let roster = quoted(binary);
    let mut text = format!(
        "No configuration was found: this is a demonstration. Its nodes are in {}; edit them as you like.\n\
         Try in a second terminal:\n\n  {address}{roster} get /zk_test\n  {address}{roster} watch /services\n",
        tree_path().display()
    );
    if Path::new(PHP_EXAMPLE).exists() {
        text += &format!("  {address}php {PHP_EXAMPLE}\n");
    }
    if let Some(first) = masters.first() {
        let pids: Vec<String> = masters.iter().map(u32::to_string).collect();
        text += &format!(
            "\nAnd {} processes ({}) have connected as masters; call them, and see how one dies:\n\n  \
             {address}{roster} masters\n  {address}{roster} call {SERVICE}.hello name=Ada\n  \
             {address}{roster} call {SERVICE}.count to=20\n  {address}{roster} watch --masters\n  kill -9 {first}\n",
            masters.len(),
            pids.join(" and ")
        );
    }
    text
}

/// The variable to set for a client; none where it finds the sidecar by itself.
fn address(config: &Config) -> String {
    let unix = &config.thrift.unix;
    if unix.as_os_str().is_empty() {
        format!("ROSTER_ADDRESS={} ", config.thrift.tcp)
    } else if place::is_found(unix) {
        String::new()
    } else {
        format!("ROSTER_ADDRESS={} ", quoted(Path::new(&format!("unix://{}", unix.display()))))
    }
}

/// A word that a shell takes as it is.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+:".contains(character);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::config::Layers;

    #[test]
    fn the_demonstration_is_a_configuration() {
        let config = Config::load(&Layers { file: Some(file()), ..Layers::default() }).expect("no mistakes");
        assert_eq!(config.thrift.unix, place::user_socket());
        assert_eq!(config.thrift.tcp, place::PORT);
        assert_eq!(config.zk_data.path.as_str(), "/zk_test");
        assert_eq!(config.file[0].path, tree_path());
        assert_eq!(config.register.tokens, Some(token_path()));
        assert_eq!(TOKENS.trim(), roster::register::EXAMPLE_TOKEN);
    }

    #[test]
    fn a_tree_that_the_user_has_edited_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tree.toml");
        write_new(&path, TREE).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("a tree"), TREE);
        std::fs::write(&path, "edited").expect("written");
        write_new(&path, TREE).expect("left alone");
        assert_eq!(std::fs::read_to_string(&path).expect("a tree"), "edited");
    }

    #[test]
    fn the_address_is_told_where_a_client_would_not_find_it() {
        let mut config = Config::default();
        let first_line =
            |config: &Config| invitation(config, Path::new("/bin/roster"), &[]).lines().nth(3).map(str::to_owned);
        config.thrift.unix = "/tmp/a b.sock".into();
        let told = "  ROSTER_ADDRESS='unix:///tmp/a b.sock' /bin/roster get /zk_test";
        assert_eq!(first_line(&config).as_deref(), Some(told));
        config.thrift.unix = PathBuf::new();
        let told = "  ROSTER_ADDRESS=127.0.0.1:9090 /bin/roster get /zk_test";
        assert_eq!(first_line(&config).as_deref(), Some(told));
    }
}
