//! The model's own threads. [`Team::run`] has every one of them, the caller included, do the same work under another rank;
//! a [`Barrier`] lets them wait for one another inside it.
//!
//! A step of one short prompt takes some ten microseconds. Threads that went to sleep between steps would spend more time on
//! waking up than on computing, so they spin for a while; on a machine that is busy with other things they give way.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::types::{Error, Result};

/// Looks at a barrier before the thread offers its core to others: some microseconds.
const SPINS: usize = 4_000;
/// Looks for the next work before a helper goes to sleep.
const IDLE_SPINS: usize = 4_000;

pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts what was handed out; a helper that sees it rise has work.
    round: AtomicUsize,
    /// Helpers that have not finished the present round.
    working: AtomicUsize,
    barrier: Barrier,
    state: Mutex<State>,
    work_came: Condvar,
}

#[derive(Default)]
struct State {
    work: Option<Work>,
    closed: bool,
    panic: Option<Box<dyn Any + Send>>,
}

/// A borrowed closure without its lifetime. [`Team::run`] does not return before all helpers are done with it.
#[derive(Clone, Copy)]
struct Work(*const Closure<'static>);

type Closure<'a> = dyn Fn(usize, &Barrier) + Sync + 'a;

// SAFETY: the closure is `Sync`, and lives as long as it is shared (see `Work`).
unsafe impl Send for Work {}

impl Team {
    /// `size`: threads that work, the caller's included; at least one.
    pub fn new(size: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            round: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            barrier: Barrier::new(size.max(1)),
            state: Mutex::default(),
            work_came: Condvar::new(),
        });
        let mut team = Self { shared, helpers: Vec::new() };
        for rank in 1..size {
            let shared = team.shared.clone();
            let helper = thread::Builder::new().name(format!("embed-{rank}")).spawn(move || shared.help(rank));
            team.helpers.push(helper.map_err(|e| Error::internal("cannot start the model's threads").with_source(e))?);
        }
        Ok(team)
    }

    pub fn size(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` with every rank from 0 (the caller's) to `size() - 1`, at the same time; returns when all have returned.
    /// A panic in any of them frees those that wait at the barrier, and goes on here. One call at a time.
    pub fn run(&mut self, work: &Closure) {
        let shared = &*self.shared;
        shared.barrier.reset();
        if !self.helpers.is_empty() {
            // SAFETY: only the lifetime goes. This function waits below until no helper uses the closure any more,
            // whether it panics or not.
            let work = Work(unsafe { std::mem::transmute::<*const Closure<'_>, *const Closure<'static>>(work) });
            shared.working.store(self.helpers.len(), Ordering::Relaxed);
            let mut state = shared.state.lock();
            state.work = Some(work);
            shared.round.fetch_add(1, Ordering::Release);
            drop(state);
            shared.work_came.notify_all();
        }
        let own = shared.guarded(|| work(0, &shared.barrier));
        spin_until(SPINS, || shared.working.load(Ordering::Acquire) == 0);
        let mut state = shared.state.lock();
        state.work = None;
        let panic = state.panic.take();
        drop(state);
        if let Some(panic) = panic.or(own) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.work_came.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its work; nothing else in it can panic.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn help(&self, rank: usize) {
        let mut seen = 0;
        while let Some((round, work)) = self.next_work(seen) {
            seen = round;
            // SAFETY: `Team::run` keeps the closure alive until `working` is 0.
            let failed = self.guarded(|| unsafe { (*work.0)(rank, &self.barrier) });
            if let Some(panic) = failed {
                self.state.lock().panic.get_or_insert(panic);
            }
            self.working.fetch_sub(1, Ordering::Release);
        }
    }

    /// The round after `seen`; `None` when the team is gone.
    fn next_work(&self, seen: usize) -> Option<(usize, Work)> {
        for _ in 0..IDLE_SPINS {
            if self.round.load(Ordering::Acquire) != seen {
                break;
            }
            std::hint::spin_loop();
        }
        let mut state = self.state.lock();
        loop {
            let round = self.round.load(Ordering::Acquire);
            match state.work.filter(|_| round != seen) {
                Some(work) => return Some((round, work)),
                None if state.closed => return None,
                None => self.work_came.wait(&mut state),
            }
        }
    }

    /// Gives what `work` panicked with, after it has freed the others.
    fn guarded(&self, work: impl FnOnce()) -> Option<Box<dyn Any + Send>> {
        let failed = catch_unwind(AssertUnwindSafe(work)).err()?;
        self.barrier.broken.store(true, Ordering::Release);
        Some(failed)
    }
}

/// Where all ranks of a team wait for one another.
pub struct Barrier {
    size: usize,
    arrived: AtomicUsize,
    /// How many things of the present step were taken.
    taken: AtomicUsize,
    /// Counts how often all had arrived.
    passed: AtomicUsize,
    /// One of them will never arrive.
    broken: AtomicBool,
}

impl Barrier {
    fn new(size: usize) -> Self {
        Self {
            size,
            arrived: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn reset(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// The number of the next thing to do in this step; counts from 0 again after each [`Barrier::wait`].
    pub fn take(&self) -> usize {
        self.taken.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns when all ranks have called it as often. What each wrote before is seen by all after.
    ///
    /// # Panics
    /// When another rank panicked.
    pub fn wait(&self) {
        if self.size == 1 {
            return;
        }
        let passed = self.passed.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.size {
            self.arrived.store(0, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
            self.passed.store(passed.wrapping_add(1), Ordering::Release);
            return;
        }
        spin_until(SPINS, || self.passed.load(Ordering::Acquire) != passed || self.broken.load(Ordering::Acquire));
        #[allow(clippy::panic, reason = "passes on another thread's panic; the worker catches it")]
        if self.passed.load(Ordering::Acquire) == passed {
            panic!("another thread of the model panicked");
        }
    }
}

/// Spins, and after `spins` looks gives way to other threads between two looks.
fn spin_until(spins: usize, done: impl Fn() -> bool) {
    for _ in 0..spins {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_works_once_and_sees_what_others_wrote_before_the_barrier() {
        for size in 1..=4 {
            let mut team = Team::new(size).unwrap();
            for _ in 0..200 {
                let wrote: Vec<AtomicUsize> = (0..size).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|rank, barrier| {
                    for step in 1..=5 {
                        wrote[rank].fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert!(wrote.iter().all(|count| count.load(Ordering::Relaxed) == step));
                        barrier.wait();
                    }
                });
                assert!(wrote.iter().all(|count| count.load(Ordering::Relaxed) == 5));
            }
        }
    }

    #[test]
    fn what_there_is_to_do_in_a_step_is_taken_once() {
        let mut team = Team::new(3).unwrap();
        for _ in 0..50 {
            let taken: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|_, barrier| {
                for step in 1..=5 {
                    while let Some(count) = taken.get(barrier.take()) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    barrier.wait();
                    assert!(taken.iter().all(|count| count.load(Ordering::Relaxed) == step));
                    barrier.wait();
                }
            });
        }
    }

    #[test]
    fn a_panic_frees_those_who_wait_and_the_team_works_on() {
        let mut team = Team::new(3).unwrap();
        for guilty in 0..3 {
            let run = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|rank, barrier| {
                    if rank == guilty {
                        panic!("on purpose");
                    }
                    barrier.wait();
                })
            }));
            assert!(run.is_err());
            let ranks = AtomicUsize::new(0);
            team.run(&|rank, barrier| {
                barrier.wait();
                ranks.fetch_add(rank, Ordering::Relaxed);
            });
            assert_eq!(ranks.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn helpers_that_went_to_sleep_wake_up_for_work_and_for_the_end() {
        let mut team = Team::new(2).unwrap();
        thread::sleep(std::time::Duration::from_millis(20));
        let calls = AtomicUsize::new(0);
        team.run(&|_, _| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        thread::sleep(std::time::Duration::from_millis(20));
        drop(team);
    }
}
