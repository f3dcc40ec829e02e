//! A realm of Kerberos: a real KDC, and the files by which its principals know it.

use std::fmt::Display;
use std::fs::{read_to_string, write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Process, SOON, Server, ensure, eventually, free_port};

pub(crate) const REALM: &str = "ROSTER.TEST";

/// A realm in which `zookeeper/localhost` and `roster` have a keytab each.
#[derive(Debug)]
pub(crate) struct Realm {
    kdc: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Realm {
    pub(crate) fn start() -> Self {
        let mut realm = Self { kdc: None, folder: tempfile::tempdir().expect("a folder"), port: free_port() };
        realm.put("krb5.conf", &realm.client(realm.port, ""));
        let (port, folder) = (realm.port, realm.folder.path().display());
        realm.put(
            "kdc.conf",
            &format!(
                "[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{REALM} = {{\n\
                 database_name = {folder}/principal\nkey_stash_file = {folder}/stash\nacl_file = {folder}/acl\n}}\n\
                 [logging]\nkdc = FILE:{folder}/kdc.log\n"
            ),
        );
        realm.run(&["kdb5_util", "create", "-s", "-P", "secret", "-r", REALM]);
        for (principal, keytab) in [("zookeeper/localhost", "zookeeper.keytab"), ("roster", "roster.keytab")] {
            realm.administer(&["addprinc", "-randkey", principal]);
            realm.administer(&["ktadd", "-k", &realm.path(keytab).display().to_string(), principal]);
        }
        realm.start_kdc();
        realm
    }

    /// What a client knows of the realm: where its KDC is, and more settings of the library.
    pub(crate) fn client(&self, port: u16, settings: &str) -> String {
        format!(
            "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_canonicalize_hostname = false\n\
             rdns = false\n{settings}\n[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n"
        )
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        write(self.path(name), text).expect("written");
    }

    pub(crate) fn start_kdc(&mut self) {
        let mut kdc = self.knowing(Command::new("/usr/sbin/krb5kdc"));
        let began = self.log().matches("commencing operation").count();
        // Of its own folder, which ends with it, it has none.
        let folder = self.path("run");
        std::fs::create_dir_all(&folder).expect("a folder");
        self.kdc = Some(Process::start(kdc.arg("-n"), &folder));
        eventually("the KDC serves", SOON, || {
            let log = self.log();
            ensure(log.matches("commencing operation").count() > began, log)
        });
    }

    pub(crate) fn stop_kdc(&mut self) {
        self.kdc = None;
    }

    /// How often the KDC has given a first ticket to the mirror.
    pub(crate) fn given(&self) -> usize {
        let is_given = |line: &&str| line.contains("AS_REQ") && line.contains("ISSUE") && line.contains(" roster@");
        self.log().lines().filter(is_given).count()
    }

    fn log(&self) -> String {
        read_to_string(self.path("kdc.log")).unwrap_or_default()
    }

    pub(crate) fn administer(&self, question: &[&str]) {
        self.run(&[&["kadmin.local"], question].concat());
    }

    /// Takes a ticket, as a user does, into a file.
    pub(crate) fn take_ticket(&self, cache: &str) {
        let [cache, keytab] = [cache, "roster.keytab"].map(|name| self.path(name).display().to_string());
        self.run(&["kinit", "-c", &cache, "-k", "-t", &keytab, "roster"]);
    }

    fn run(&self, words: &[&str]) {
        let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = self.knowing(Command::new("env"));
        let done = command.arg(format!("PATH={path}")).args(words).output().expect("env starts");
        assert!(done.status.success(), "{words:?}: {done:?}; has `make deps-gssapi` been run?");
    }

    /// A command that knows this realm, and none of the machine's.
    pub(crate) fn knowing(&self, mut command: Command) -> Command {
        command.env("KRB5_CONFIG", self.path("krb5.conf")).env("KRB5_KDC_PROFILE", self.path("kdc.conf"));
        command.env("KRB5CCNAME", self.path("cache")).env_remove("KRB5_CLIENT_KTNAME");
        command
    }

    /// A ZooKeeper of this realm that runs, with a node that only the mirror may read.
    pub(crate) fn server(&self) -> Server {
        let module = format!(
            "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true isInitiator=false \
             keyTab=\"{}\" principal=\"zookeeper/localhost@{REALM}\"",
            self.path("zookeeper.keytab").display()
        );
        let server = with_jaas(self.folder.path(), &module, &self.path("krb5.conf"));
        server.zk().create_for("/closed", "for roster", &format!("roster@{REALM}"));
        server
    }
}

/// A ZooKeeper that runs, and knows its clients by SASL.
pub(crate) fn with_jaas(folder: &Path, module: impl Display, krb5: &Path) -> Server {
    let jaas = folder.join("jaas.conf");
    write(&jaas, format!("Server {{ {module}; }};")).expect("written");
    let mut server = Server::prepare();
    server.configure("authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n");
    server.set_property(&format!("-Djava.security.auth.login.config={}", jaas.display()));
    server.set_property(&format!("-Djava.security.krb5.conf={}", krb5.display()));
    server.restart();
    server
}
