//! Ctrl-C and its like: told to everyone who runs a VM, so that each ends its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long those who run a VM may take to end it, and to say what came of it.
const PATIENCE: Duration = Duration::from_secs(10);

type Callback = dyn Fn() + Send + Sync;

/// Whether the user, or the system, wants this program to end.
#[derive(Clone, Default)]
pub struct Interrupt {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    signal: Option<i32>,
    subscribers: Vec<Weak<Callback>>,
}

/// Told of an interrupt until it is dropped.
pub type Subscription = Arc<Callback>;

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on. Where nobody runs a VM, during a build or a
    /// download, the program ends at once; so it does at a second signal, and when those who run one take
    /// longer than 10 s. The supervisors of its children see to the rest.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
        let told = interrupt.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let mut state = told.lock();
                let subscribers: Vec<_> = state.subscribers.iter().filter_map(Weak::upgrade).collect();
                if state.signal.is_some() || subscribers.is_empty() {
                    std::process::exit(128 + signal);
                }
                state.signal = Some(signal);
                drop(state);
                subscribers.iter().for_each(|callback| callback());
                std::thread::spawn(move || {
                    std::thread::sleep(PATIENCE);
                    std::process::exit(128 + signal);
                });
            }
        });
        Ok(interrupt)
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.lock().signal
    }

    /// Calls `callback` when a signal comes, at once if one has.
    pub fn subscribe(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription {
        let mut state = self.lock();
        if state.signal.is_some() {
            callback();
        }
        let callback: Subscription = Arc::new(callback);
        state.subscribers.retain(|other| other.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&callback));
        callback
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
