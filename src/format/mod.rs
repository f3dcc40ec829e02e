//! Service formats: from nodes to the instances that they register.
//!
//! Nothing here reads or waits: the path and bytes of a node go in, an instance or an error comes out. Each node is
//! decoded on its own, so that a change of one does not cost by the size of its service, and one that cannot be decoded
//! affects no other. A node that changes other nodes' instances is a *rule* (a Dubbo configurator, a serverset vector,
//! the leader of Patroni): it has a *scope*, the node below which its instances lie.

mod address;
mod codis;
mod config;
mod curator;
mod dubbo;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hiveserver2;
mod json;
mod kafka;
mod motan;
mod nerve;
mod patroni;
mod qconf;
mod raw;
mod registered;
mod serverset;
mod sofa_rpc;
#[cfg(test)]
mod tests;
mod url;
mod yaml;

use std::sync::Arc;

pub use self::config::{Config, Fields};
use self::dubbo::Configurator;
pub use self::registered::Registered;
use self::serverset::Vector;
use self::url::{Url, form_decoded};
use crate::model::{Format, InstanceError, MAX_LABEL_BYTES, Node, NodePath};

/// The most rules of one scope that are considered.
pub const MAX_RULES: usize = 64;

/// The most applications in one node that may offer an interface.
const MAX_APPLICATIONS: usize = 64;

/// What a node is in its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub role: Role,
    /// The service that it belongs to.
    pub service: String,
    /// How many levels above the node its scope is.
    up: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Instance,
    /// It changes the instances of its scope.
    Rule,
    /// It has rules for the instances of a service, or of an application, wherever they are below the root.
    Document,
    /// It names the applications that offer an interface.
    Interface,
}

/// A change to the instances of a scope.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    Configurator(Arc<Configurator>),
    Vector(Vector),
    /// The name of the leading member.
    Leader(String),
}

/// Why a node registers nothing, or is not listed in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("its data are no JSON object")]
    NotJson,
    #[error("its data, or its name, have more than {0} bytes")]
    TooLong(usize),
    #[error("its data have more than {} levels", json::MAX_DEPTH)]
    TooDeep,
    #[error("it is no URL")]
    NotUrl,
    #[error("its data are no YAML that is read: see line {0}")]
    NotYaml(usize),
    #[error("its data repeat too much by aliases")]
    TooManyAliases,
    #[error("its data are no configurators: {0}")]
    Document(&'static str),
    #[error("it names no host")]
    NoHost,
    #[error("its data have no text at {0:?}, which is the key of its host by `[services.fields]`")]
    NoHostAt(String),
    #[error("its host has characters that no host has, or too many, or is a number that is no address")]
    WrongHost,
    #[error("its host is no single one, but an address such as 0.0.0.0, of a group, or of all hosts of a network")]
    NotOneHost,
    #[error("it names no port from 1 to 65535")]
    NoPort,
    #[error("its name is not base64 of the length that it tells")]
    NotBase64,
    #[error("its data are cut short, or not of the form of the registry")]
    Malformed,
    #[error("`names` of its `[[services]]` does not have its service: nodes below this root may not register it")]
    Name,
    #[error("{0}")]
    Bound(#[from] InstanceError),
    #[error("configurators are left out with which it would pass a bound, but for their `disabled` and `weight`")]
    RulesLeftOut,
    #[error("left out: with it the rules of its service would be more than {MAX_RULES}, or pass a bound in bytes")]
    RuleLeftOut,
    #[error(
        "with it nodes of its root would pass their share of `[store] max_instances` or `max_instance_bytes`: raise that"
    )]
    TooMany,
    #[error(
        "not listed as all interfaces of its application: it would be more than 1,024 instances, or its path is too long"
    )]
    TooManyOfNode,
    #[error(
        "not listed as all interfaces of its application: with them its root would pass its share of `[store] max_instances`"
    )]
    TooManyOfInterfaces,
}

/// The nodes with documents that may change what a node registers, whether they exist or not.
#[derive(Debug)]
pub struct Documents<'c> {
    config: &'c Config,
    /// None: there are none.
    names: Option<dubbo::Documents>,
}

/// A node being decoded.
struct Reading<'a> {
    config: &'a Config,
    service: &'a Arc<str>,
    /// The parts of its path below the root.
    parts: &'a [&'a str],
    /// The last part.
    name: &'a str,
    node: &'a Node,
    rules: &'a [Rule],
    /// How many bytes rules may set.
    room_for_rules: usize,
}

impl Located {
    fn instance(service: impl Into<String>, up: u8) -> Option<Self> {
        Some(Self { role: Role::Instance, service: service.into(), up })
    }

    fn rule(service: impl Into<String>, up: u8) -> Option<Self> {
        Some(Self { role: Role::Rule, service: service.into(), up })
    }

    /// Whether this is the scope of the node at a path.
    pub fn is_in(&self, scope: &NodePath, path: &NodePath) -> bool {
        path.is_under(scope) && path.depth() == scope.depth() + usize::from(self.up)
    }

    /// The scope of the node at this path.
    pub fn scope(&self, path: &NodePath) -> Option<NodePath> {
        (0..self.up).try_fold(path.clone(), |above, _| above.parent())
    }
}

impl Config {
    /// What the node at a path is; None: nothing in this format.
    pub fn locate(&self, path: &NodePath) -> Option<Located> {
        let parts = self.parts(path)?;
        match self.format {
            Format::Dubbo => dubbo::locate(&parts),
            Format::DubboApplication | Format::Curator | Format::SpringCloud => curator::locate(&parts),
            Format::Serverset => serverset::locate(self, &parts),
            Format::Nerve => nerve::locate(self, &parts),
            Format::Motan => motan::locate(&parts),
            Format::Qconf => qconf::locate(self, &parts),
            Format::Codis => codis::locate(&parts),
            Format::Patroni => patroni::locate(&parts),
            Format::Kafka => kafka::locate(self, &parts),
            Format::HiveServer2 => hiveserver2::locate(self, &parts),
            Format::SofaRpc => sofa_rpc::locate(&parts),
            Format::Raw => raw::locate(self, &parts),
        }
    }

    /// The parent node of a scope's instances.
    pub fn instances_of(&self, scope: &NodePath) -> NodePath {
        match self.format {
            Format::Dubbo => scope.child("providers"),
            Format::Patroni => scope.child("members"),
            _ => scope.clone(),
        }
    }

    /// The prefix of the paths of a scope's rules; None: the format has no rules.
    pub fn rules_of(&self, scope: &NodePath) -> Option<NodePath> {
        match self.format {
            Format::Dubbo => Some(scope.child("configurators")),
            Format::Serverset => Some(scope.child(serverset::VECTOR)),
            Format::Patroni => Some(scope.child("leader")),
            _ => None,
        }
    }

    /// How many bytes are read of the rule at a path.
    pub fn rule_bytes(&self, path: &NodePath, node: &Node) -> usize {
        let of_data = if self.format == Format::Dubbo { 0 } else { node.data.len() };
        path.as_str().len() + of_data
    }

    /// What the rule at a path changes.
    pub fn rule(&self, path: &NodePath, node: &Node) -> Result<Rule, Undecodable> {
        match self.format {
            Format::Dubbo => dubbo::rule(last_part(path)).map(|it| Rule::Configurator(it.into())),
            Format::Serverset => serverset::rule(&node.data).map(Rule::Vector),
            _ => patroni::leader(&node.data).map(Rule::Leader),
        }
    }

    /// The documents that may change what the node at a path registers.
    pub fn documents(&self, path: &NodePath) -> Documents<'_> {
        let names = || {
            let text = form_decoded(last_part(path)).ok()?;
            dubbo::Documents::of(&self.parts(path)?, &Url::parse(&text).ok()?)
        };
        Documents { config: self, names: if self.format == Format::Dubbo { names() } else { None } }
    }

    /// The parent node of documents; None: the format has none.
    pub fn documents_folder(&self) -> Option<NodePath> {
        (self.format == Format::Dubbo).then(|| self.root.child("config").child("dubbo"))
    }

    /// The rules in a document.
    pub fn document(&self, path: &NodePath, node: &Node) -> Result<Vec<Rule>, Undecodable> {
        let configurators = dubbo::document(last_part(path), &node.data)?;
        Ok(configurators.into_iter().map(|it| Rule::Configurator(it.into())).collect())
    }

    /// The scope of a service's instances that documents change.
    pub fn scope_of(&self, service: &str) -> NodePath {
        self.root.child(&url::form_encoded(service))
    }

    /// The instances that a node of the service registers, given the rules of its scope and in its documents, which may set
    /// this many bytes.
    pub fn decode(
        &self,
        path: &NodePath,
        service: &Arc<str>,
        node: &Node,
        rules: impl FnOnce(Documents<'_>) -> Arc<[Rule]>,
        room_for_rules: usize,
    ) -> Result<Option<Registered>, Undecodable> {
        #[cfg(test)]
        DECODED.set(DECODED.get() + 1);
        let (parts, name) = (self.parts(path).unwrap_or_default(), last_part(path));
        let text = (self.format == Format::Dubbo).then(|| form_decoded(name)).transpose()?;
        let url = text.as_deref().map(Url::parse).transpose()?;
        let names = url.as_ref().and_then(|url| dubbo::Documents::of(&parts, url));
        let rules = rules(Documents { config: self, names });
        let reading = Reading { config: self, service, name, parts: &parts, node, rules: &rules, room_for_rules };
        self.read(&reading, url.as_ref())
    }

    /// The URL is that in the name, if the format has documents.
    fn read(&self, reading: &Reading<'_>, url: Option<&Url<'_>>) -> Result<Option<Registered>, Undecodable> {
        let registered = match self.format {
            Format::Dubbo => dubbo::decode(reading, url.ok_or(Undecodable::NotUrl)?)?,
            Format::DubboApplication | Format::Curator | Format::SpringCloud => curator::decode(reading)?,
            Format::Serverset => Some(serverset::decode(reading)?),
            Format::Nerve => Some(nerve::decode(reading)?),
            Format::Motan => Some(motan::decode(reading)?),
            Format::Qconf => Some(qconf::decode(reading)?),
            Format::Codis => Some(codis::decode(reading)?),
            Format::Patroni => Some(patroni::decode(reading)?),
            Format::Kafka => Some(kafka::decode(reading)?),
            Format::HiveServer2 => Some(hiveserver2::decode(reading)?),
            Format::SofaRpc => Some(sofa_rpc::decode(reading)?),
            Format::Raw => raw::decode(reading)?,
        };
        if let Some(registered) = &registered {
            registered.instance.check()?;
            registered.check_version()?;
            self.check_name(&registered.instance.service)?;
        }
        Ok(registered)
    }

    /// The applications that offer an interface according to a node.
    pub fn applications<'n>(&self, interface: &str, node: &'n Node) -> Result<Vec<&'n str>, Undecodable> {
        if interface.len() > MAX_LABEL_BYTES {
            return Err(InstanceError::Label("interface").into());
        }
        if interface.contains(char::is_control) {
            return Err(InstanceError::Control("interface").into());
        }
        self.check_name(interface)?;
        let text = std::str::from_utf8(&node.data).map_err(|_| Undecodable::NotUtf8)?;
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(names.take(MAX_APPLICATIONS).collect())
    }

    /// Whether nodes below this root may register a service.
    fn check_name(&self, service: &str) -> Result<(), Undecodable> {
        if self.names.is_match(service) { Ok(()) } else { Err(Undecodable::Name) }
    }

    /// The parts of a path below the root; None: it is not below the root.
    fn parts<'p>(&self, path: &'p NodePath) -> Option<Vec<&'p str>> {
        let root = self.root.as_str().trim_end_matches('/');
        let below = path.as_str().strip_prefix(root)?.strip_prefix('/')?;
        Some(below.split('/').filter(|part| !part.is_empty()).collect())
    }

    /// The name of a service that is only in its path: the part below the root; at the root itself, `name` or the
    /// root's last part.
    fn by_path(&self, parts: &[&str]) -> String {
        match parts {
            [] if self.name.is_empty() => last_part(&self.root).to_owned(),
            [] => self.name.clone(),
            parts => parts.join("/"),
        }
    }
}

impl Documents<'_> {
    pub fn of_application(&self) -> Option<NodePath> {
        self.names.as_ref()?.of_application().and_then(|name| self.at(&name))
    }

    /// In the order in which they are applied.
    pub fn paths(&self) -> impl Iterator<Item = NodePath> {
        let of_service = self.names.iter().flat_map(|names| names.of_service());
        self.of_application().into_iter().chain(of_service.filter_map(|name| self.at(&name)))
    }

    fn at(&self, name: &str) -> Option<NodePath> {
        Some(self.config.documents_folder()?.child(name))
    }
}

impl Reading<'_> {
    fn text(&self) -> Result<&str, Undecodable> {
        std::str::from_utf8(&self.node.data).map_err(|_| Undecodable::NotUtf8)
    }
}

#[cfg(test)]
thread_local! {
    static DECODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many nodes this thread has decoded.
#[cfg(test)]
pub(crate) fn decoded_by_this_thread() -> usize {
    DECODED.get()
}

fn last_part(path: &NodePath) -> &str {
    path.as_str().rsplit('/').next().unwrap_or_default()
}
