//! What is kept in process, and when it may be.
//!
//! The danger is a reader that fetches an entry, is overtaken by a change of it, and then keeps the old one. So each
//! key belongs to a stripe that counts changes: a reader notes the count before it asks the store, and what it
//! got is kept only if the count is still the same and nobody is writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};

use super::super::footprint::footprint;
use crate::store::breaker::NotCalled;
use crate::types::{Entry, EntryKey, Error, ErrorKind, Owner, Tag, UnixMillis};

const STRIPES: usize = 256;
/// The store behind hears of an entry's use at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How long nothing new is kept after a write whose outcome is unknown (a time-out): it may take effect late.
const DOUBT: Duration = Duration::from_secs(30);

/// How changes of the store behind become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coherence {
    /// All writes go through this cache.
    OnlyWriter,
    /// The store reports every change; until [`Hot::open`], and after [`Hot::close`], nothing is kept or served.
    Reported,
}

/// Entries in memory, bounded by bytes (TinyLFU), each until it expires.
pub struct Hot {
    cache: Cache<EntryKey, Arc<Slot>>,
    stripes: Vec<Mutex<Stripe>>,
    coherence: Coherence,
    open: AtomicBool,
    /// Slots of an earlier generation are not served.
    generation: AtomicU64,
    /// Milliseconds since the epoch.
    doubt_until: AtomicU64,
}

#[derive(Default)]
struct Stripe {
    changes: u64,
    writers: u32,
}

struct Slot {
    entry: Arc<Entry>,
    generation: u64,
    touched: AtomicU64,
}

pub struct Hit {
    pub entry: Arc<Entry>,
    /// The store behind should hear of its use.
    pub is_due: bool,
}

/// What a reader saw before it asked the store behind.
pub struct Ticket {
    changes: u64,
    generation: u64,
}

impl Hot {
    pub fn new(bytes: u64, coherence: Coherence) -> Arc<Self> {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, slot: &Arc<Slot>| footprint(&slot.entry))
            .expire_after(UntilExpired)
            .build();
        Arc::new(Self {
            cache,
            stripes: std::iter::repeat_with(Mutex::default).take(STRIPES).collect(),
            coherence,
            open: AtomicBool::new(coherence == Coherence::OnlyWriter),
            generation: AtomicU64::new(0),
            doubt_until: AtomicU64::new(0),
        })
    }

    pub fn get(&self, key: &EntryKey) -> Option<Hit> {
        if !self.open.load(Ordering::Acquire) {
            return None;
        }
        let slot = self.cache.get(key)?;
        let now = UnixMillis::now();
        if slot.generation != self.generation.load(Ordering::Acquire) || slot.entry.is_expired(now) {
            return None;
        }
        let touched = slot.touched.load(Ordering::Relaxed);
        let is_due = now.since(UnixMillis(touched)) > TOUCH_EVERY;
        if is_due {
            slot.touched.store(now.0, Ordering::Relaxed);
        }
        Some(Hit { entry: slot.entry.clone(), is_due })
    }

    pub fn begin_read(&self, key: &EntryKey) -> Ticket {
        let generation = self.generation.load(Ordering::Acquire);
        Ticket { changes: self.stripe(key).changes, generation }
    }

    /// Keeps what a reader got from the store behind, unless it may have changed since `ticket`.
    pub fn fill(&self, ticket: Ticket, entry: &Arc<Entry>) {
        let stripe = self.stripe(&entry.key);
        if stripe.writers == 0 && stripe.changes == ticket.changes {
            self.insert(entry, ticket.generation);
        }
    }

    /// Announces a write; [`Write::done`] or [`Write::failed`] says how it went, and dropping it that nobody knows.
    pub fn begin_write(self: &Arc<Self>, key: &EntryKey) -> Write {
        let generation = self.generation.load(Ordering::Acquire);
        let mut stripe = self.stripe(key);
        stripe.writers += 1;
        Write {
            hot: self.clone(),
            key: *key,
            changes: stripe.changes,
            alone: stripe.writers == 1,
            generation,
            outcome: Outcome::Unknown,
        }
    }

    /// The entry was changed or deleted.
    pub fn invalidate(&self, key: &EntryKey) {
        let mut stripe = self.stripe(key);
        stripe.changes += 1;
        self.cache.invalidate(key);
    }

    /// All entries of that owner with that tag were deleted. Gives the keys of those that were kept; looks at everything
    /// that is.
    pub fn invalidate_tagged(&self, owner: &Owner, tag: &Tag) -> Vec<EntryKey> {
        // What is being read just now may have the tag, and must not be kept when it comes.
        self.stripes.iter().for_each(|stripe| stripe.lock().changes += 1);
        let has_tag = |slot: &Slot| slot.entry.owner == *owner && slot.entry.tags.contains(tag);
        let keys: Vec<_> = self.cache.iter().filter(|(_, slot)| has_tag(slot)).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.invalidate(key));
        keys
    }

    /// Any entry may have changed.
    pub fn invalidate_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.cache.invalidate_all();
    }

    /// From here on, every change is reported.
    pub fn open(&self) {
        self.invalidate_all();
        self.open.store(true, Ordering::Release);
    }

    /// From here on, changes may go unreported: serves and keeps nothing.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
        self.invalidate_all();
    }

    /// A write that may concern any entry failed, and may still take effect.
    pub fn doubt_all(&self) {
        self.doubt();
        self.invalidate_all();
    }

    fn doubt(&self) {
        // A reported change is reported whenever it comes.
        if self.coherence == Coherence::OnlyWriter {
            self.doubt_until.store(UnixMillis::now().after(DOUBT).0, Ordering::Release);
        }
    }

    /// With the stripe locked.
    fn insert(&self, entry: &Arc<Entry>, generation: u64) {
        let now = UnixMillis::now();
        let fits = generation == self.generation.load(Ordering::Acquire) && !entry.is_expired(now);
        if fits && self.open.load(Ordering::Acquire) && now.0 >= self.doubt_until.load(Ordering::Acquire) {
            let slot = Slot { entry: entry.clone(), generation, touched: AtomicU64::new(now.0) };
            self.cache.insert(entry.key, Arc::new(slot));
        }
    }

    fn stripe(&self, key: &EntryKey) -> MutexGuard<'_, Stripe> {
        // Keys are hashes: any byte of them spreads evenly.
        self.stripes[usize::from(key.as_bytes()[0]) % STRIPES].lock()
    }
}

/// A write to the store behind that is under way.
pub struct Write {
    hot: Arc<Hot>,
    key: EntryKey,
    changes: u64,
    alone: bool,
    generation: u64,
    outcome: Outcome,
}

enum Outcome {
    /// It may or may not have taken effect, and may still do so.
    Unknown,
    Refused,
    /// What the store holds now.
    Done(Option<Arc<Entry>>),
}

impl Write {
    /// The store has acknowledged: `entry` is what it holds now, if anything.
    pub fn done(mut self, entry: Option<Arc<Entry>>) {
        self.outcome = Outcome::Done(entry);
    }

    pub fn failed(mut self, error: &Error) {
        if is_refusal(error) {
            self.outcome = Outcome::Refused;
        }
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let mut stripe = self.hot.stripe(&self.key);
        // Two writers at once: which of them the store took last is not known here.
        let alone = self.alone && stripe.changes == self.changes;
        stripe.changes += 1;
        stripe.writers -= 1;
        self.hot.cache.invalidate(&self.key);
        match &self.outcome {
            Outcome::Done(Some(entry)) if alone && self.hot.coherence == Coherence::OnlyWriter => {
                self.hot.insert(entry, self.generation);
            }
            Outcome::Unknown => self.hot.doubt(),
            _ => {}
        }
    }
}

/// Whether the write that failed so cannot take effect any more. One that met a full queue or a store that is down
/// was not even sent.
pub(super) fn is_refusal(error: &Error) -> bool {
    let not_called = || std::error::Error::source(error).is_some_and(|source| source.is::<NotCalled>());
    error.kind == ErrorKind::Overloaded || !error.kind.is_transient() || not_called()
}

struct UntilExpired;

impl UntilExpired {
    fn left(slot: &Slot) -> Option<Duration> {
        Some(slot.entry.expires.since(UnixMillis::now()))
    }
}

impl Expiry<EntryKey, Arc<Slot>> for UntilExpired {
    fn expire_after_create(&self, _: &EntryKey, slot: &Arc<Slot>, _: Instant) -> Option<Duration> {
        Self::left(slot)
    }

    fn expire_after_update(&self, _: &EntryKey, slot: &Arc<Slot>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Self::left(slot)
    }
}
