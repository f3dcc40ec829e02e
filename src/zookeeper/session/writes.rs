//! Writes: creates, sets and deletes nodes. Whether one without a reply was carried out is unknown.

use bytes::BytesMut;

use super::{REPLY_TIMEOUT, Session, SessionError, reads};
use crate::model::{NodePath, Stat};
use crate::zookeeper::jute::{self, Malformed, code, op};
use crate::zookeeper::request::Failure;

/// How long a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// At most as long as the session that created it. It has no children.
    Ephemeral,
}

/// Who may access a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acl {
    /// Everybody may do everything.
    Open,
    /// Everybody may read it. Those with an identity of the session that created it may do everything.
    Readable,
    /// Only those with an identity of the session that created it may access it, and may do everything.
    Private,
}

/// Why a write did not succeed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// Whether it was, or will be, carried out is unknown: retry only if doing it twice is harmless, or after checking.
    #[error("there was no reply, so whether it was carried out is unknown: {0}")]
    Unknown(SessionError),
    #[error("there is such a node already")]
    Exists,
    /// The node is missing, or the parent of one to be created.
    #[error("there is no such node, or it has no parent")]
    Missing,
    #[error("the node has children")]
    NotEmpty,
    #[error("the node has another version")]
    OtherVersion,
    #[error("the session has no identity that may do this")]
    Forbidden,
    #[error("the server serves to read only")]
    ReadOnly,
    /// With an error code of ZooKeeper's `KeeperException`.
    #[error("the server refuses it, with error {0}")]
    Refused(i32),
}

impl Session {
    /// Creates a node below an existing one.
    ///
    /// # Errors
    /// `Exists` also if an earlier attempt with an unknown outcome was carried out.
    pub async fn create(&self, path: &NodePath, data: &[u8], lifetime: Lifetime, acl: Acl) -> Result<(), WriteError> {
        let is_ephemeral = lifetime == Lifetime::Ephemeral;
        let body = jute::create_request(&self.chroot.server(path), data, acl.rules(), is_ephemeral);
        self.write("create", op::CREATE, body, |_| Ok(())).await
    }

    /// Sets the data of a node if it has this version, or any; returns its new stat.
    ///
    /// # Errors
    /// `OtherVersion` also if an earlier attempt with an unknown outcome was carried out.
    pub async fn set(&self, path: &NodePath, data: &[u8], version: Option<i32>) -> Result<Stat, WriteError> {
        self.write("set", op::SET_DATA, jute::set_request(&self.chroot.server(path), data, version), jute::stat).await
    }

    /// Deletes a node if it has this version, or any, and no children.
    ///
    /// # Errors
    /// `Missing` also if an earlier attempt with an unknown outcome was carried out.
    pub async fn delete(&self, path: &NodePath, version: Option<i32>) -> Result<(), WriteError> {
        self.write("delete", op::DELETE, jute::delete_request(&self.chroot.server(path), version), |_| Ok(())).await
    }

    async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        op: i32,
        body: BytesMut,
        read: fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, WriteError> {
        let written = self.ask(what, REPLY_TIMEOUT, op, body, move |reply| match reply {
            Err(Failure::Code(code)) => Ok(Err(WriteError::of(code))),
            reply => {
                let body = reads::whole(what, reply)?;
                read(&body).map(Ok).map_err(|broken| reads::malformed(what, broken))
            }
        });
        written.await.unwrap_or_else(|trouble| Err(WriteError::Unknown(trouble)))
    }
}

impl WriteError {
    fn of(code: i32) -> Self {
        match code {
            code::NODE_EXISTS => Self::Exists,
            code::NO_NODE => Self::Missing,
            code::NOT_EMPTY => Self::NotEmpty,
            code::BAD_VERSION => Self::OtherVersion,
            code::NO_AUTH => Self::Forbidden,
            code::NOT_READ_ONLY => Self::ReadOnly,
            code => Self::Refused(code),
        }
    }
}

impl Acl {
    fn rules(self) -> &'static [(i32, &'static str, &'static str)] {
        /// From `ZooDefs.Perms`.
        const READ: i32 = 1;
        const ALL: i32 = 31;
        match self {
            Self::Open => &[(ALL, "world", "anyone")],
            Self::Readable => &[(READ, "world", "anyone"), (ALL, "auth", "")],
            Self::Private => &[(ALL, "auth", "")],
        }
    }
}
