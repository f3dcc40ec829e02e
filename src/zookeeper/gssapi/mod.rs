//! SASL by GSSAPI, which is Kerberos (RFC 4752), with the C library of MIT.
//!
//! Only the first token of an exchange takes more than a moment: for it, names are looked up and KDCs asked. The
//! library cannot be stopped in that, so it is done on a thread for which nobody has to wait.

mod keytab;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext};
use libgssapi::credential::{Cred, CredUsage};
use libgssapi::error::{Error, MajorFlags};
use libgssapi::name::Name;
use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_HOSTBASED_SERVICE, GSS_NT_KRB5_PRINCIPAL};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Settings;
use super::kerberos::Kerberos;
use crate::secret::Secret;
use crate::sync::{Mutex, MutexGuard};
use crate::task::unawaited;

/// How many threads may wait for KDCs at once, for one ensemble.
const MAX_AT_ONCE: usize = 8;

/// Kerberos takes two, and the agreement on security layers one more.
const MAX_ROUNDS: usize = 6;

/// The most that a server's token may hold: one with the largest ticket that Windows makes takes less.
const MAX_TOKEN: usize = 64 << 10;

/// The layer of RFC 4752 that is none: what follows is as ZooKeeper's protocol has it.
const NO_LAYER: u8 = 1;

const NO_GSSAPI: &str = "it has no GSSAPI: is its `Server` in JAAS a Krb5LoginModule?";

/// Where the error codes of MIT's Kerberos begin (`krb5_err.et`).
const KRB5: i32 = -1_765_328_384;
const UNKNOWN_SERVICE: i32 = KRB5 + 7;
const EXPIRED: i32 = KRB5 + 32;
const SKEW: i32 = KRB5 + 37;
const SKEW_IN_REPLY: i32 = KRB5 + 148;
const NO_KDC_KNOWN: i32 = KRB5 + 154;
const NO_KDC_REACHED: i32 = KRB5 + 156;

/// By what the mirror of an ensemble proves who it is. Clones share the tickets.
#[derive(Clone, Debug)]
pub(super) struct Gssapi {
    kerberos: Kerberos,
    /// Tickets that were taken by the keytab are in a cache in this process, by this name and a number.
    cache: String,
    number: Arc<AtomicUsize>,
    places: Places,
}

/// The services for which a thread waits: one for each, so that none takes the places of the others.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<BTreeSet<String>>>);

/// The place of a thread, free again when it is dropped.
struct Place {
    places: Places,
    service: String,
}

/// An exchange with a server, from its first token on.
#[derive(Debug)]
pub(super) struct Exchange {
    service: String,
    context: ClientCtx,
    first: Secret<Vec<u8>>,
    rounds: usize,
    is_agreed: bool,
}

impl Gssapi {
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        static ENSEMBLES: AtomicUsize = AtomicUsize::new(0);
        let kerberos = settings.kerberos.clone()?;
        let cache = format!("MEMORY:roster-{}", ENSEMBLES.fetch_add(1, Ordering::Relaxed));
        Some(Self { kerberos, cache, number: Arc::default(), places: Places::default() })
    }

    /// Begins an exchange with the server of this host, for which there must be a ticket; or says why there is none.
    pub(super) async fn begin(&self, host: &str, within: Duration) -> Result<Exchange, String> {
        let service = self.asked(host);
        let late = format!("no ticket for {service} in time: the KDC does not answer, or DNS; see `kdc` in krb5.conf");
        let Some(place) = self.places.take(service) else { return Err(late) };
        let beginning = async {
            let ((begun, beginning), gssapi, host) = (oneshot::channel(), self.clone(), host.to_owned());
            let begin = move || {
                let exchange = gssapi.begin_here(&host);
                drop(place);
                // Nobody may wait any more.
                let _ = begun.send(exchange);
            };
            unawaited("kerberos", begin).map_err(|error| format!("no thread for Kerberos: {error}"))?;
            beginning.await.unwrap_or_else(|_| Err("the Kerberos library panicked".into()))
        };
        timeout(within, beginning).await.unwrap_or(Err(late))
    }

    fn begin_here(&self, host: &str) -> Result<Exchange, String> {
        let asked = self.asked(host);
        let name = self.name(&asked).map_err(|error| self.no_ticket(&asked, &error))?;
        // A host that krb5.conf puts in no realm has none yet: `zookeeper/zk1@`.
        let service = name.to_string().trim_end_matches('@').to_owned();
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG | CtxFlags::GSS_C_INTEG_FLAG;
        let begin = || -> Result<_, Error> {
            let mut context = ClientCtx::new(Some(self.credentials()?), name.duplicate()?, flags, Some(GSS_MECH_KRB5));
            Ok((context.step(None, None)?, context))
        };
        let number = self.number.load(Ordering::Relaxed);
        let begun = match begin() {
            // The library tried to renew it in vain, and would not try again for half a minute.
            Err(error) if error.minor as i32 == EXPIRED && self.kerberos.keytab.is_some() => {
                self.leave_cache(number);
                begin()
            }
            begun => begun,
        };
        let (first, context) = begun.map_err(|error| self.no_ticket(&service, &error))?;
        let first = Secret(first.map(|token| token.to_vec()).unwrap_or_default());
        Ok(Exchange { service, context, first, rounds: 0, is_agreed: false })
    }

    /// Goes on with the other cache of two, unless another thread has done so: the library keeps each until the process
    /// ends.
    fn leave_cache(&self, number: usize) {
        let _ = self.number.compare_exchange(number, 1 - number, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What the server is called, as it is configured.
    fn asked(&self, host: &str) -> String {
        let service = &self.kerberos.service;
        if service.contains('/') { service.clone() } else { format!("{service}@{host}") }
    }

    /// The principal of it, with the canonical name of the host.
    fn name(&self, asked: &str) -> Result<Name, Error> {
        let kind = if self.kerberos.service.contains('/') { GSS_NT_KRB5_PRINCIPAL } else { GSS_NT_HOSTBASED_SERVICE };
        Name::new(asked.as_bytes(), Some(kind))?.canonicalize(Some(GSS_MECH_KRB5))
    }

    fn credentials(&self) -> Result<Cred, Error> {
        let principal = self.kerberos.principal.as_deref();
        let Some(path) = &self.kerberos.keytab else {
            let name = principal.map(|name| Name::new(name.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL))).transpose()?;
            return Cred::acquire(name.as_ref(), None, CredUsage::Initiate, None);
        };
        let cache = format!("{}-{}", self.cache, self.number.load(Ordering::Relaxed));
        // No path that was opened has a NUL in it.
        let [path, cache] =
            [path.as_os_str().as_bytes(), cache.as_bytes()].map(|it| CString::new(it).unwrap_or_default());
        keytab::acquire(principal, &path, &cache)
    }

    /// Why there is no ticket, and what may be done for one.
    fn no_ticket(&self, service: &str, error: &Error) -> String {
        let cure = match error.minor as i32 {
            UNKNOWN_SERVICE => "`service` says how the KDC knows the servers".into(),
            SKEW | SKEW_IN_REPLY => "set the clock of this machine, or the KDC's".into(),
            NO_KDC_KNOWN | NO_KDC_REACHED => "`kdc` in krb5.conf says where it is".into(),
            _ => match (&self.kerberos.keytab, &self.kerberos.principal) {
                (Some(keytab), Some(principal)) => format!("has {} the key of {principal}?", keytab.display()),
                (Some(keytab), None) => format!("has {} a key that the KDC knows?", keytab.display()),
                (None, _) => "name a `keytab`, or keep a ticket by kinit".into(),
            },
        };
        format!("no ticket for {service}: {}; {cure}", in_words(error))
    }
}

impl Places {
    /// None: a thread waits for this service already, or too many do.
    fn take(&self, service: String) -> Option<Place> {
        let mut taken = self.taken();
        let is_free = taken.len() < MAX_AT_ONCE && taken.insert(service.clone());
        is_free.then(|| Place { places: self.clone(), service })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().remove(&self.service);
    }
}

impl Exchange {
    /// The principal of the server.
    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// The token with which it begins.
    pub(super) fn first(&self) -> &[u8] {
        &self.first.0
    }

    /// The answer to a token of the server's; none: who both are is proven.
    pub(super) fn answer(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.rounds += 1;
        if self.is_agreed {
            return Ok(None);
        }
        if token.is_empty() {
            return Err(NO_GSSAPI.into());
        }
        if token.len() > MAX_TOKEN || self.rounds > MAX_ROUNDS {
            return Err("it goes on with SASL without end".into());
        }
        let answer = if self.context.is_complete() { self.agree(token)? } else { self.step(token)? };
        Ok(Some(answer))
    }

    fn step(&mut self, token: &[u8]) -> Result<Vec<u8>, String> {
        let wrong = |error: Error| match is(&error, MajorFlags::GSS_S_DEFECTIVE_TOKEN) {
            true => NO_GSSAPI.into(),
            false => format!("it does not prove that it is {}: {}", self.service, in_words(&error)),
        };
        let answer = self.context.step(Some(token), None).map_err(wrong)?;
        Ok(answer.map(|token| token.to_vec()).unwrap_or_default())
    }

    /// Agrees on no security layer, and asks to be whom the ticket names.
    fn agree(&mut self, token: &[u8]) -> Result<Vec<u8>, String> {
        let wrong = |error: Error| format!("what it offers as {} is not from it: {}", self.service, in_words(&error));
        let offer = self.context.unwrap(token).map_err(wrong)?;
        if offer.first().is_none_or(|layers| layers & NO_LAYER == 0) {
            return Err("it wants a security layer, which ZooKeeper's protocol does not have".into());
        }
        let answer = self.context.wrap(false, &[NO_LAYER, 0, 0, 0]).map_err(wrong)?.to_vec();
        self.is_agreed = true;
        Ok(answer)
    }
}

/// Whether it is of this kind. They are numbers, though the binding has them as flags.
fn is(error: &Error, kind: MajorFlags) -> bool {
    error.major.bits() == kind.bits()
}

/// What Kerberos says of an error, without what GSSAPI does; on the thread on which it came, which knows more of it.
fn in_words(error: &Error) -> String {
    let text = error.to_string();
    match text.split_once(" (") {
        Some((general, _)) if error.minor == 0 => general.to_owned(),
        Some((_, special)) => special.trim_end_matches(')').to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_one_service_leaves_room_for_the_others() {
        let places = Places::default();
        let take = |service: &str| places.take(service.to_owned());
        let slow = take("slow");
        assert!(slow.is_some() && take("slow").is_none());
        let others: Vec<_> = (1..MAX_AT_ONCE).map(|number| take(&number.to_string()).expect("a place")).collect();
        assert!(take("more").is_none());
        drop(others);
        assert!(take("slow").is_none());
        drop(slow);
        assert!(take("slow").is_some());
    }

    #[test]
    fn there_are_two_caches_of_tickets_however_often_one_is_left() {
        let settings = Settings { kerberos: Some(Kerberos::default()), ..Settings::new("zk1") };
        let gssapi = Gssapi::of(&settings).expect("Kerberos");
        let number = || gssapi.number.load(Ordering::Relaxed);
        for expected in [1, 0, 1, 0] {
            let left = number();
            // Two threads have seen that its ticket is expired.
            gssapi.leave_cache(left);
            gssapi.leave_cache(left);
            assert_eq!(number(), expected);
        }
    }
}
