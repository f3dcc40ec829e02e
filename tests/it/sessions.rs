//! What the sidecar's own client writes into ZooKeeper, and what becomes of it.

use std::time::Duration;

use roster::model::NodePath;
use roster::zookeeper::{Acl, Lifetime, Servers, Session, SessionError, Settings, WriteError};
use tokio::task::JoinHandle;
use zookeeper_client::Error;

use crate::harness::{Link, SOON, Server, Zk, ensure, eventually, fresh_chroot, runtime};

/// A session that writes; it ends with this.
struct Writer {
    session: Session,
    driving: JoinHandle<()>,
}

impl Writer {
    fn connect(connect: &str) -> Self {
        Self::with(&Settings::new(connect))
    }

    fn with(settings: &Settings) -> Self {
        let servers = Servers::of(settings);
        let connected = runtime().block_on(Session::connect(settings, &servers));
        let (session, driver) = connected.expect("a session");
        let driving = runtime().spawn(async move { match driver.run().await {} });
        Self { session, driving }
    }

    fn create(&self, text: &str, lifetime: Lifetime, acl: Acl) -> Result<(), WriteError> {
        runtime().block_on(self.session.create(&path(text), b"ours", lifetime, acl))
    }

    fn set(&self, text: &str, data: &str, version: Option<i32>) -> Result<i32, WriteError> {
        runtime().block_on(self.session.set(&path(text), data.as_bytes(), version)).map(|stat| stat.version)
    }

    fn delete(&self, text: &str, version: Option<i32>) -> Result<(), WriteError> {
        runtime().block_on(self.session.delete(&path(text), version))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

/// The data of a node and the session that it lives by, in hexadecimal; None: there is no such node.
fn read(zk: &Zk, path: &str) -> Option<(String, String)> {
    eventually("it is read", SOON, || match zk.attempt(async |client| client.get_data(path).await) {
        Ok((data, stat)) => Ok(Some((String::from_utf8(data).expect("text"), format!("{:#x}", stat.ephemeral_owner)))),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    })
}

#[test]
fn an_ephemeral_node_goes_with_the_session_that_created_it_and_a_persistent_one_stays() {
    let zk = fresh_chroot();
    // It does not expire while the test waits.
    let settings = Settings { session_timeout: Duration::from_secs(60), ..Settings::new(zk.connect_string()) };
    let writer = Writer::with(&settings);
    writer.create("/stays", Lifetime::Persistent, Acl::Open).expect("created");
    writer.create("/goes", Lifetime::Ephemeral, Acl::Open).expect("created");
    assert_eq!(read(&zk, "/goes"), Some(("ours".into(), writer.session.id())));
    drop(writer);
    eventually("it goes", SOON, || ensure(read(&zk, "/goes").is_none(), "it is there"));
    assert_eq!(read(&zk, "/stays"), Some(("ours".into(), "0x0".into())));
}

#[test]
fn a_write_that_is_refused_says_why_and_the_session_goes_on() {
    let zk = fresh_chroot();
    let writer = Writer::connect(zk.connect_string());
    let create = |path: &str, lifetime| writer.create(path, lifetime, Acl::Open);
    assert_eq!(create("/a/b", Lifetime::Persistent), Err(WriteError::Missing));
    create("/a", Lifetime::Persistent).expect("created");
    assert_eq!(create("/a", Lifetime::Ephemeral), Err(WriteError::Exists));
    create("/a/b", Lifetime::Ephemeral).expect("created");
    assert!(matches!(create("/a/b/c", Lifetime::Persistent), Err(WriteError::Refused(_))));
    assert_eq!(writer.delete("/a", None), Err(WriteError::NotEmpty));
    assert_eq!(writer.set("/a", "new", Some(7)), Err(WriteError::OtherVersion));
    assert_eq!(writer.set("/a", "new", Some(0)), Ok(1));
    assert_eq!(writer.set("/a", "newer", None), Ok(2));
    assert_eq!(read(&zk, "/a").map(|(data, _)| data).as_deref(), Some("newer"));
    assert_eq!(writer.delete("/a/b", Some(7)), Err(WriteError::OtherVersion));
    writer.delete("/a/b", Some(0)).expect("deleted");
    writer.delete("/a", None).expect("deleted");
    assert_eq!(
        (writer.delete("/a", None), writer.set("/a", "", None)),
        (Err(WriteError::Missing), Err(WriteError::Missing))
    );
}

#[test]
fn what_others_may_do_with_a_node_is_what_its_creator_said() {
    let zk = fresh_chroot();
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = |name: &str, line: &str| {
        std::fs::write(folder.path().join(name), line).expect("written");
        Settings { credentials: Some(folder.path().join(name)), ..Settings::new(zk.connect_string()) }
    };
    let (joe, jim) = (credentials("joe", "digest:joe:secret\n"), credentials("jim", "digest:jim:secret\n"));
    let (joe, jim) = (Writer::with(&joe), Writer::with(&jim));
    for (path, acl) in [("/open", Acl::Open), ("/readable", Acl::Readable), ("/private", Acl::Private)] {
        joe.create(path, Lifetime::Persistent, acl).expect("created");
        let by_jim = jim.set(path, "his", None);
        assert_eq!(by_jim, if acl == Acl::Open { Ok(1) } else { Err(WriteError::Forbidden) }, "{path}");
        assert!(joe.set(path, "his", None).is_ok(), "{path}");
        let seen = zk.attempt(async |client| client.get_data(path).await);
        assert_eq!(seen.is_ok(), acl != Acl::Private, "{path}: {seen:?}");
    }
}

#[test]
fn whether_a_write_was_carried_out_is_unknown_where_the_connection_was_lost_before_its_reply() {
    let (zk, server) = (fresh_chroot(), Server::shared().address());
    let line = Link::to(server.clone());
    let below = zk.connect_string().strip_prefix(&server).expect("a chroot");
    let writer = Writer::connect(&format!("{}{below}", line.address()));
    let create = |path: &str| writer.create(path, Lifetime::Ephemeral, Acl::Open);
    create("/before").expect("created");
    // What is on the way when all is silent comes when it is mended: nobody waits for it any more.
    line.fall_silent();
    let unknown = create("/late");
    assert!(matches!(unknown, Err(WriteError::Unknown(SessionError::Lost(_)))), "{unknown:?}");
    assert_eq!(read(&zk, "/late"), None);
    line.mend();
    eventually("it is carried out", SOON, || ensure(read(&zk, "/late").is_some(), "it is not there"));
    line.cut();
    eventually("it is lost", SOON, || {
        let set = writer.set("/before", "again", None);
        ensure(matches!(set, Err(WriteError::Unknown(_))), format!("{set:?}"))
    });
    let unknown = create("/never");
    assert!(matches!(unknown, Err(WriteError::Unknown(_))), "{unknown:?}");
    line.mend();
    // The session is the same one, and what it has created is there.
    eventually("it goes on", SOON, || match create("/after") {
        Ok(()) | Err(WriteError::Exists) => Ok(()),
        Err(why) => Err(why),
    });
    let owner = |path: &str| read(&zk, path).map(|(_, owner)| owner);
    assert_eq!((owner("/before"), owner("/after")), (Some(writer.session.id()), Some(writer.session.id())));
    assert_eq!(create("/late"), Err(WriteError::Exists));
    assert_eq!(read(&zk, "/never"), None);
}
