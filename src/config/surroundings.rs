//! What a configuration needs of the machine it is checked on, beside being right in itself.

use nix::unistd::Group;

use super::Config;
use super::draft::Draft;
use super::mistake::Mistake;

/// All that the configuration names and the machine does not have. What cannot be looked at may be there.
pub(super) fn check(config: &Config, draft: &Draft) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let group = &config.thrift.group;
    if !group.is_empty() && matches!(Group::from_name(group), Ok(None)) {
        mistakes.push(draft.mistake("thrift.group".into(), format!("there is no group {group:?} on this machine")));
    }
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        if let Some(path) = ensemble.credentials.as_ref().filter(|path| !path.as_os_str().is_empty())
            && matches!(path.try_exists(), Ok(false))
        {
            let key = draft.element(&"zookeeper".into(), number).child("credentials");
            mistakes.push(draft.mistake(key, format!("there is no file {}", path.display())));
        }
    }
    mistakes
}
