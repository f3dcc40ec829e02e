//! SASL with GSSAPI, that is Kerberos (RFC 4752), using MIT's C library.
//!
//! Only the first token of an exchange takes more than a moment: it requires name lookups and requests to KDCs. The
//! library cannot be interrupted in that, so it runs on a thread that nobody has to wait for.

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

/// Kerberos takes two, and the negotiation of security layers one more.
const MAX_ROUNDS: usize = 6;

/// The largest token of a server: one with the largest ticket that Windows issues is smaller.
const MAX_TOKEN: usize = 64 << 10;

/// "No security layer" in RFC 4752: what follows is plain ZooKeeper protocol.
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

/// The Kerberos identity of an ensemble's mirror. Clones share the tickets.
#[derive(Clone, Debug)]
pub(super) struct Gssapi {
    kerberos: Kerberos,
    /// Tickets obtained by the keytab are cached in this process, under this name and a number.
    cache: String,
    number: Arc<AtomicUsize>,
    places: Places,
}

/// The services for which a thread is waiting: one for each, so that none takes the places of the others.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<BTreeSet<String>>>);

/// The place of a thread, freed when dropped.
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

    /// Begins an exchange with the server on this host, which requires a ticket; or says why there is none.
    pub(super) async fn begin(&self, host: &str, within: Duration) -> Result<Exchange, String> {
        let service = self.asked(host);
        let late = format!("no ticket for {service} in time: the KDC does not answer, or DNS; see `kdc` in krb5.conf");
        let Some(place) = self.places.take(service) else { return Err(late) };
        let beginning = async {
            let ((begun, beginning), gssapi, host) = (oneshot::channel(), self.clone(), host.to_owned());
            let begin = move || {
                let exchange = gssapi.begin_here(&host);
                drop(place);
                // The receiver may be gone.
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
        // A host without a realm in krb5.conf has none yet: `zookeeper/zk1@`.
        let service = name.to_string().trim_end_matches('@').to_owned();
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG | CtxFlags::GSS_C_INTEG_FLAG;
        let begin = || -> Result<_, Error> {
            let mut context = ClientCtx::new(Some(self.credentials()?), name.duplicate()?, flags, Some(GSS_MECH_KRB5));
            Ok((context.step(None, None)?, context))
        };
        let number = self.number.load(Ordering::Relaxed);
        let begun = match begin() {
            // The library failed to renew it, and would not retry for half a minute.
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

    /// Switches to the other of two caches, unless another thread has done so: the library keeps each until the process
    /// ends.
    fn leave_cache(&self, number: usize) {
        let _ = self.number.compare_exchange(number, 1 - number, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The configured name of the server.
    fn asked(&self, host: &str) -> String {
        let service = &self.kerberos.service;
        if service.contains('/') { service.clone() } else { format!("{service}@{host}") }
    }

    /// Its principal, with the canonical name of the host.
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
        // A path that could be opened contains no NUL.
        let [path, cache] =
            [path.as_os_str().as_bytes(), cache.as_bytes()].map(|it| CString::new(it).unwrap_or_default());
        keytab::acquire(principal, &path, &cache)
    }

    /// Why there is no ticket, and how to get one.
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
    /// None: a thread is waiting for this service already, or too many are.
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

    /// The token that begins the exchange.
    pub(super) fn first(&self) -> &[u8] {
        &self.first.0
    }

    /// The reply to a server's token; none: both identities are proven.
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

    /// Negotiates no security layer, and asks for the ticket's identity.
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

/// Whether it is of this kind. They are numbers, though the binding treats them as flags.
fn is(error: &Error, kind: MajorFlags) -> bool {
    error.major.bits() == kind.bits()
}

/// Kerberos's message for an error, without GSSAPI's; on the thread on which it occurred, which has the details.
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
