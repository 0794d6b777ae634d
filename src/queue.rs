//! A bounded queue between async callers and threads that do blocking work (SQLite, password hashing).
//!
//! Pushing never waits: a full queue is the caller's answer. Popping blocks a thread, never a task.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many items wait as the queue may hold.
    #[error("full")]
    Full,
    #[error("closed")]
    Closed,
}

/// What a thread got.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    Item(T),
    /// Nothing came in time.
    Idle,
    /// Closed, and all that was queued before has been handed out.
    Closed,
}

impl<T> Queue<T> {
    pub fn new(capacity: usize) -> Self {
        let state = State { waiting: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    pub fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.capacity {
            return Err(Refused::Full);
        }
        state.waiting.push_back(item);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// The oldest item; `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            self.arrived.wait(&mut state);
        }
    }

    /// Like `pop`, but gives up after `limit` without an item.
    pub fn pop_within(&self, limit: Duration) -> Popped<T> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() && !state.closed {
            self.arrived.wait_for(&mut state, limit);
        }
        match state.waiting.pop_front() {
            Some(item) => Popped::Item(item),
            None if state.closed => Popped::Closed,
            None => Popped::Idle,
        }
    }

    /// Takes what waits right now, oldest first, at most `limit` items, without blocking.
    pub fn drain(&self, limit: usize) -> Vec<T> {
        let mut state = self.state.lock();
        let count = state.waiting.len().min(limit);
        state.waiting.drain(..count).collect()
    }

    /// Items that wait right now.
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses further items and lets the threads end once they have done what is queued.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_hands_out_what_it_holds() {
        let queue = Queue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(Refused::Full));
        assert_eq!(queue.pop(), Some(1));
        queue.close();
        assert_eq!(queue.push(4), Err(Refused::Closed));
        assert_eq!(queue.pop_within(Duration::ZERO), Popped::Item(2));
        assert_eq!(queue.pop_within(Duration::ZERO), Popped::Closed);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn popping_waits_for_an_item_or_the_end() {
        let queue = Queue::new(1_000);
        std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.pop()).count())).collect();
            for i in 0..1_000 {
                queue.push(i).unwrap();
            }
            queue.close();
            let taken: usize = takers.into_iter().map(|t| t.join().unwrap()).sum();
            assert_eq!(taken, 1_000);
        });
    }

    #[test]
    fn idle_is_told_apart_from_closed() {
        let queue = Queue::<u8>::new(1);
        assert_eq!(queue.pop_within(Duration::from_millis(1)), Popped::Idle);
    }
}
