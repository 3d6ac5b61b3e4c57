//! Deadlines of one core, kept by looking over all of them every few milliseconds: setting and dropping one costs next to
//! nothing, which a timer of its own for each request would not.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::{sync::Notify, time::sleep};

use crate::clock;

/// Everything that waits.
#[derive(Debug)]
pub struct Alarms {
    entries: RefCell<Slab<Entry>>,
    begun: Notify,
    tick: Duration,
}

#[derive(Debug)]
struct Entry {
    at_ms: u64,
    waker: Waker,
    rung: bool,
}

impl Alarms {
    /// Alarms ring late by up to `tick`.
    pub fn new(tick: Duration) -> Rc<Self> {
        Rc::new(Self { entries: RefCell::default(), begun: Notify::new(), tick })
    }

    /// An alarm that is not set yet.
    pub fn alarm(self: &Rc<Self>) -> Alarm {
        Alarm { alarms: Rc::clone(self), key: None, at_ms: u64::MAX }
    }

    /// Lets the loop run once more, for what `each` does.
    pub fn nudge(&self) {
        self.begun.notify_one();
    }

    /// Rings everything, whenever it is due.
    pub fn ring_all(&self) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            entry.rung = true;
            entry.waker.wake_by_ref();
        }
    }

    /// Rings what is due, for ever. After each look `each` is called; the loop rests while nothing waits.
    pub async fn run(&self, mut each: impl FnMut()) {
        loop {
            if self.entries.borrow().is_empty() {
                self.begun.notified().await;
            }
            sleep(self.tick).await;
            let now = clock::refresh();
            for (_, entry) in self.entries.borrow_mut().iter_mut() {
                if entry.at_ms <= now && !entry.rung {
                    entry.rung = true;
                    entry.waker.wake_by_ref();
                }
            }
            each();
        }
    }
}

/// One deadline.
#[derive(Debug)]
pub struct Alarm {
    alarms: Rc<Alarms>,
    key: Option<usize>,
    at_ms: u64,
}

impl Alarm {
    /// Sets it, on the clock of [`clock`].
    pub fn set(&mut self, at_ms: u64) {
        self.at_ms = at_ms;
        if let Some(key) = self.key {
            let entry = &mut self.alarms.entries.borrow_mut()[key];
            entry.at_ms = at_ms;
            entry.rung = false;
        }
    }

    /// Ready when it has rung.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.alarms.entries.borrow_mut();
        match self.key {
            Some(key) => {
                let entry = &mut entries[key];
                if entry.rung {
                    return Poll::Ready(());
                }
                entry.waker.clone_from(cx.waker());
            }
            None => {
                if entries.is_empty() {
                    self.alarms.begun.notify_one();
                }
                self.key = Some(entries.insert(Entry { at_ms: self.at_ms, waker: cx.waker().clone(), rung: false }));
            }
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.alarms.entries.borrow_mut().remove(key);
        }
    }
}
