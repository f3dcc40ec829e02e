//! The sidecar: builds the rooms from the configuration, connects them, and stops them in order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::access::{Access, Policy, UnknownName};
use crate::admin::{self, Admin};
use crate::config::{Config, foreign_folders, raise_limit};
use crate::format;
use crate::history::History;
use crate::metrics::Metrics;
use crate::net::{Address, BindError, TakenPorts, begin_closing};
use crate::perform;
use crate::permissions::{Claim, PidFile, PidFileError};
use crate::prober::{self, Own};
use crate::queue::{Queues, warn_of_left_jobs};
use crate::register::{Channels, Register, RegisterError};
use crate::secret::warn_if_open;
use crate::share::Pool;
use crate::source;
use crate::store::shared::{self, Shared, SharedError, StateTaken};
use crate::store::{self, Feed, FeedState, Publisher, Store};
use crate::task::{Failure, Phase, Reload, Stop, Tasks};
use crate::thrift::{self, Endpoint};
use crate::withhold::Withholder;
use crate::worker::{Added, BoundWorkers, ReadSettings, Surroundings, WorkerError, Workers};

/// How soon to try again to write the pid file.
const PID_FILE_INTERVAL: Duration = Duration::from_secs(5);

/// How often to check for expected masters, and the pause in between.
const EXPECT_LOOKS: u32 = 300;
const EXPECT_PAUSE: Duration = Duration::from_millis(30);

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    tasks: Tasks,
    failures: mpsc::UnboundedReceiver<Failure>,
    reload: watch::Sender<()>,
    store: Arc<Store>,
    access: Arc<Access>,
    addresses: Vec<Address>,
    stop_timeout: Duration,
    /// Dropped when everything has stopped, including what had to be cut.
    workers: KilledOnDrop,
    /// Removed when everything has stopped.
    _pid_file: Option<PidFile>,
    /// Held until everything has stopped: no other sidecar keeps its state in the same directory.
    _state: Option<Claim>,
}

/// Why the access rules stay as they were.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Name(#[from] UnknownName),
    #[error("there is no [[allow]] any more; restart the sidecar to run without rules")]
    NoRules,
}

/// Why the sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("access: {0}")]
    Access(#[from] UnknownName),
    #[error("{0}: {1}")]
    Folder(&'static str, String),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("sidecar.pid_file: {0}")]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    State(#[from] StateTaken),
    #[error(transparent)]
    Shared(SharedError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

impl StartError {
    /// Whether another process listens where this one should.
    pub fn is_taken(&self) -> bool {
        let (Self::Bind(error) | Self::Register(RegisterError::Bind(error))) = self else { return false };
        error.is_taken()
    }
}

impl Sidecar {
    /// Starts all rooms on the caller's runtime. It listens when this returns, whatever the sources do; `taken_ports`
    /// says what to do about a port that another process has.
    pub fn start(config: &Config, taken_ports: TakenPorts) -> Result<Self, StartError> {
        begin_closing()?;
        let limit = raise_limit();
        let config = &config.within(limit);
        let access = Access::new(policy(config)?);
        if let Some((setting, why)) = foreign_folders(config).next() {
            return Err(StartError::Folder(setting, why));
        }
        // After this: if it cannot listen, it touches nothing of another sidecar's.
        let endpoint = match Endpoint::bind(&config.thrift, taken_ports) {
            Err(full) if full.is_for_room() => {
                Shared::make_room(&config.shared, config.thrift.unix.parent());
                Endpoint::bind(&config.thrift, taken_ports)
            }
            bound => bound,
        }?;
        let mut shared_config = config.shared.clone();
        let metrics = Arc::new(Metrics::default());
        let state = shared_config.claim_state(&metrics)?;
        let pid_file = match config.sidecar.pid_file.as_deref().map(PidFile::write).transpose() {
            // Nothing here needs it, and where others may write too, any of them can be in its way.
            Err(error) if !matches!(error, PidFileError::Held { .. }) => {
                tracing::error!(%error, "going on without `sidecar.pid_file`, until it can be written");
                None
            }
            written => written?,
        };
        let added = Added::read(config.state());
        let bind = || Register::bind(&config.register, &config.token_file(), taken_ports);
        let has_register = config.register.is_on() || !config.worker.is_empty() || !added.is_empty();
        let register = has_register.then(bind).transpose()?;
        let bind = || Admin::bind(&config.admin, taken_ports);
        let admin = (!config.admin.listen.is_empty()).then(bind).transpose()?;
        let own = config.clone();
        let read = ReadSettings::new(move |settings| own.worker_of(settings));
        let descriptors = config.left_for_workers(limit);
        let workers = BoundWorkers::bind(&config.worker, added, read, config.state(), descriptors, taken_ports)?;

        let (channels, connected) = mpsc::unbounded_channel();
        let listening = register.iter().flat_map(Register::addresses).chain(admin.iter().filter_map(Admin::address));
        let own = Own::of(listening.chain(endpoint.addresses()));
        let connected = Channels { connected, names: workers.names() };
        let (feeds, starts): (Vec<Feed>, Vec<Start>) = sources(config, register, connected).unzip();
        let beside = config.thrift.unix.parent();
        let shared = open_shared(&shared_config, beside, &feeds, &metrics)?;
        warn_of_left_file(&shared_config, &config.thrift.unix);
        let peeked = if shared.is_none() { Shared::peek(&shared_config, beside, &feeds) } else { None };
        let began = peeked.as_ref().map_or(0, |left| left.status.fresh.revision);
        let store_config = store::Config { guard: config.guard.clone(), ..config.store.clone() };
        let store = match shared.as_ref().map_or(peeked.as_ref(), Shared::left) {
            Some(left) => Store::restored(&store_config, feeds, left, metrics.clone()),
            None => Store::new(&store_config, feeds, metrics.clone()),
        };

        let (tasks, failures) = Tasks::new();
        let withholder =
            Withholder::start(&config.eject, config.state(), &store, &metrics, &tasks.of(Phase::SharedFile))?;
        let folder = Some(shared_config.state.as_path()).filter(|folder| !folder.as_os_str().is_empty());
        // Before the sources, so that it knows the state at the start.
        let history = History::start(&config.history, folder, &store, &metrics, &tasks)?;
        let queues = Queues::start(&config.queue, &metrics, &tasks)?;
        warn_of_left_jobs(&config.queue, config.state(), &tasks);
        let addresses: Vec<Address> = endpoint.addresses().cloned().collect();
        for address in &addresses {
            tracing::info!(%address, "listening");
        }

        let memory = config.thrift.memory(store.messages().charged());
        let (reload, reloads) = Reload::new();
        let context =
            Context { tasks: tasks.clone(), reload: reloads, memory: memory.clone(), metrics: metrics.clone() };
        for (feed, start) in starts.into_iter().enumerate() {
            start(store.publisher(feed), &context)?;
        }
        let of_sources = tasks.of(Phase::Sources);
        let prober = prober::run(store.clone(), own, metrics.clone(), of_sources.stop_signal());
        of_sources.critical("the prober of what the guard holds", prober);
        of_sources.short(source::warn_of_idle_roots(store.clone(), of_sources.stop_signal()));
        let clients = tasks.of(Phase::Clients);
        let (performers, performing) = mpsc::unbounded_channel();
        let of_workers = tasks.of(Phase::Workers);
        let performing = perform::run(performing, queues.clone(), access.clone(), memory.clone(), of_workers.clone());
        of_workers.critical("what hands jobs to workers", performing);
        let workers = workers.start(Surroundings {
            channels: has_register.then_some(channels),
            performers,
            patience: config.sidecar.stop_timeout / 2,
            metrics: &metrics,
            tasks: &of_workers,
        })?;
        let kept = KilledOnDrop(workers.clone());
        if let Some(admin) = admin {
            if let Some(address) = admin.address() {
                tracing::info!(%address, "listening for health and metrics");
            }
            let rooms = admin::Rooms {
                store: store.clone(),
                access: access.clone(),
                workers: workers.clone(),
                queues: queues.clone(),
                metrics: metrics.clone(),
                memory: memory.clone(),
                started: Instant::now(),
            };
            admin.start(rooms, &clients);
        }
        let rooms = thrift::Rooms {
            store: store.clone(),
            access: access.clone(),
            workers,
            withholder,
            history,
            queues,
            metrics: metrics.clone(),
            memory,
        };
        endpoint.start(&config.zk_data, rooms, &clients)?;
        let last = tasks.of(Phase::SharedFile);
        match shared {
            Some(shared) => shared.start(&last, &store, &metrics)?,
            None => Shared::start_later(&shared_config, beside, began, &last, &store, &metrics)?,
        }
        if let Some(path) = config.sidecar.pid_file.clone().filter(|_| pid_file.is_none()) {
            last.short(write_pid_file(path, last.stop_signal()));
        }
        let stop_timeout = config.sidecar.stop_timeout;
        Ok(Self {
            tasks,
            failures,
            reload,
            store,
            access,
            addresses,
            stop_timeout,
            workers: kept,
            _pid_file: pid_file,
            _state: state,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Makes the sources read again what an operator may have changed: credentials and files.
    pub fn reload(&self) {
        self.reload.send_replace(());
    }

    /// Replaces the processes of all workers, one after the other.
    pub fn roll_workers(&self) {
        self.workers.0.roll();
    }

    /// Puts the access rules of another configuration in force; everything else requires a restart, and so does
    /// removing all rules: a file that is just being written has none either.
    pub fn replace_access(&self, config: &Config) -> Result<(), AccessError> {
        let policy = policy(config)?;
        if self.access.has_rules() && !policy.has_rules() {
            return Err(AccessError::NoRules);
        }
        self.access.replace(policy);
        Ok(())
    }

    /// Waits until a critical part fails.
    pub async fn failure(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Waits, for a limited time, until this many masters are connected and visible: no others are on their way.
    pub fn expect_masters(&self, count: usize) -> impl Future<Output = ()> + use<> {
        let store = self.store.clone();
        async move {
            for _ in 0..EXPECT_LOOKS {
                let snapshot = store.snapshot();
                let connected = snapshot.directory().masters("").filter(|(_, entry)| entry.is_connected());
                if connected.count() >= count {
                    store.end_settling();
                    if snapshot.behind_masters().all(|(feed, progress)| feed.state_of(progress) == FeedState::Live) {
                        return;
                    }
                }
                tokio::time::sleep(EXPECT_PAUSE).await;
            }
        }
    }

    /// Keeps the known state as it is: whatever ends from now on, this process ends itself.
    pub fn freeze(&self) {
        self.store.freeze();
    }

    /// Keeps the known state as it is, stops accepting, lets what is under way finish until the deadline, and logs what
    /// had to be cut.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.freeze();
        match self.tasks.stop(self.stop_timeout).await {
            cut if cut.is_empty() => tracing::info!("stopped"),
            cut => tracing::warn!(%cut, deadline = ?self.stop_timeout, "stopped; some tasks had to be cut"),
        }
    }
}

/// The access rules of a configuration.
fn policy(config: &Config) -> Result<Policy, UnknownName> {
    Ok(Policy::new(&config.access, &config.allow)?.read_from(config.read_from.as_deref()))
}

/// Workers that outlive neither the sidecar nor a failed start.
#[derive(Debug)]
struct KilledOnDrop(Arc<Workers>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// What sources need to start.
struct Context {
    tasks: Tasks,
    reload: Reload,
    memory: Arc<Pool>,
    metrics: Arc<Metrics>,
}

/// Starts one source, which fills its feed.
type Start<'a> = Box<dyn FnOnce(Publisher, &Context) -> io::Result<()> + 'a>;

/// The sources, each as the store sees it, and how to start it.
fn sources(config: &Config, register: Option<Register>, channels: Channels) -> impl Iterator<Item = (Feed, Start<'_>)> {
    let ensembles = config.zookeeper.iter().map(|ensemble| {
        source(ensemble.feed().with_services(config.services_below(&ensemble.roots)), move |publisher, context| {
            ensemble.credentials.iter().for_each(|path| warn_if_open("zookeeper.credentials", path));
            ensemble.key.iter().for_each(|path| warn_if_open("zookeeper.key", path));
            let keytab = ensemble.kerberos.as_ref().and_then(|kerberos| kerberos.keytab.as_deref());
            keytab.iter().for_each(|path| warn_if_open("zookeeper.kerberos.keytab", path));
            let tasks = context.tasks.of(Phase::Sources);
            let mirror =
                source::zookeeper::run(ensemble.clone(), publisher, context.reload.clone(), tasks.stop_signal());
            // On a thread of its own: what masters and followers send must not make it late.
            tasks.thread(format!("the mirror of {}", ensemble.name), move |_| mirror)
        })
    });
    let files = config.file.iter().map(|file| {
        // What is gone from a file somebody took out.
        let services = config.services_below(std::slice::from_ref(&file.root)).into_iter();
        let services = services.map(|it| format::Config { guard: false, ..it }).collect();
        source(file.feed().with_services(services), move |publisher, context| {
            let tasks = context.tasks.of(Phase::Sources);
            let reader = source::file::run(file.clone(), publisher, context.reload.clone(), tasks.stop_signal());
            tasks.critical(format!("the reader of {}", file.name), reader);
            Ok(())
        })
    });
    let upstreams = config.upstream.iter().map(|upstream| {
        source(upstream.feed(), move |publisher, context| {
            warn_if_open("upstream.token", &upstream.token);
            let tasks = context.tasks.of(Phase::Sources);
            let follower =
                source::upstream::run(upstream.clone(), publisher, context.reload.clone(), tasks.stop_signal());
            tasks.critical(format!("the follower of {}", upstream.name), follower);
            Ok(())
        })
    });
    let register = register.map(|register| {
        source(config.register.feed(), move |publisher, context| {
            for address in register.addresses() {
                tracing::info!(%address, "listening for masters");
            }
            let (memory, metrics) = (context.memory.clone(), context.metrics.clone());
            let tasks = context.tasks.of(Phase::Masters);
            register.start(publisher, memory, metrics, &tasks, context.reload.clone(), channels);
            Ok(())
        })
    });
    ensembles.chain(files).chain(upstreams).chain(register)
}

fn source<'a>(feed: Feed, start: impl FnOnce(Publisher, &Context) -> io::Result<()> + 'a) -> (Feed, Start<'a>) {
    (feed, Box::new(start))
}

/// Writes the pid file once that is possible, and removes it at the stop.
async fn write_pid_file(path: PathBuf, stop: Stop) {
    let mut written = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PID_FILE_INTERVAL), if written.is_none() => {}
            () = stop.requested() => return,
        }
        let again = path.clone();
        written = tokio::task::spawn_blocking(move || PidFile::write(&again).ok()).await.ok().flatten();
        if written.is_some() {
            tracing::info!(path = %path.display(), "`sidecar.pid_file` is written");
        }
    }
}

/// Warns of a shared file that clients read though no sidecar with this configuration writes it.
fn warn_of_left_file(config: &shared::Config, socket: &Path) {
    let Some(path) = config.left_beside(socket) else { return };
    let remove = "where no other sidecar has it, remove it";
    let cure = match config.file(socket.parent()) {
        None => remove.to_owned(),
        Some(own) => {
            let own = own.display();
            format!("{remove}, and tell PHP clients the new one: `Roster\\Client::local(shared: '{own}')`")
        }
    };
    tracing::warn!(
        path = %path.display(),
        cure,
        "a shared file of an earlier configuration lies beside the socket, and PHP clients read it"
    );
}

/// The endpoint also works without a shared file: only problems that an operator must fix prevent the start.
fn open_shared(
    config: &shared::Config,
    beside: Option<&Path>,
    feeds: &[Feed],
    metrics: &Metrics,
) -> Result<Option<Shared>, StartError> {
    match Shared::open(config, beside, feeds) {
        Err(error @ (SharedError::Io { .. } | SharedError::Folder { .. })) => {
            let error = error.with_hint();
            tracing::error!(error, "going on without the shared file, until it can be opened");
            metrics.shared_trouble.store(Some(Arc::new(error)));
            Ok(None)
        }
        result => result.map_err(StartError::Shared),
    }
}
