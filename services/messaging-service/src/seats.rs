//! Who of one group waits at this instance, and for how much: the subscribers, the leases each one holds, and whose turn it
//! is. No I/O.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{delivery::Receipt, store::Seat};

/// Seats that are filled by one statement.
const MOST_SEATS: usize = 128;

/// A message for one subscriber, as it will be sent.
#[derive(Debug, Clone)]
pub struct Handed {
    pub receipt: Receipt,
    /// Of the payload.
    pub bytes: usize,
    pub json: String,
    pub lease_expires_at: DateTime<Utc>,
}

#[derive(Debug)]
struct Place {
    subscriber_id: Uuid,
    principal: String,
    window: usize,
    most_bytes: usize,
    bytes: usize,
    /// Lease → delivery, and its bytes.
    held: HashMap<Uuid, (i64, usize)>,
    sender: mpsc::Sender<Handed>,
}

impl Place {
    fn free(&self) -> usize {
        // The size of what comes is known when it has come, so the last ones may pass over the cap.
        if self.bytes >= self.most_bytes {
            return 0;
        }
        // Also what it has not yet read: a subscriber that reads nothing gets nothing more, even when its leases end.
        self.window.saturating_sub(self.held.len()).min(self.sender.capacity())
    }

    fn is_full(&self) -> bool {
        self.held.len() >= self.window || self.bytes >= self.most_bytes
    }

    fn forget(&mut self, lease_id: Uuid) -> bool {
        let held = self.held.remove(&lease_id);
        self.bytes -= held.map_or(0, |(_, bytes)| bytes);
        held.is_some()
    }
}

/// The subscribers of one group at this instance.
#[derive(Debug, Default)]
pub struct Seats {
    places: Vec<Place>,
    turn: usize,
}

impl Seats {
    /// A subscriber that may hold `window` messages at a time, and `most_bytes`, which the last one may pass over.
    pub fn add(
        &mut self,
        subscriber_id: Uuid,
        principal: String,
        window: usize,
        most_bytes: usize,
    ) -> mpsc::Receiver<Handed> {
        let (sender, receiver) = mpsc::channel(window.max(1));
        let place = Place { subscriber_id, principal, window, most_bytes, bytes: 0, held: HashMap::new(), sender };
        self.places.push(place);
        receiver
    }

    /// It is gone; gives the leases that it held.
    pub fn remove(&mut self, subscriber_id: Uuid) -> Vec<Receipt> {
        let Some(index) = self.places.iter().position(|place| place.subscriber_id == subscriber_id) else {
            return Vec::new();
        };
        let place = self.places.swap_remove(index);
        place.held.into_iter().map(|(lease_id, (delivery_id, _))| Receipt { delivery_id, lease_id }).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Free seats, dealt out in turn, so that few messages are spread over many subscribers.
    pub fn free(&mut self) -> Vec<Seat> {
        let count = self.places.len();
        let mut free: Vec<usize> = self.places.iter().map(Place::free).collect();
        let mut seats = Vec::new();
        let mut skipped = 0;
        while skipped < count && seats.len() < MOST_SEATS {
            let index = self.turn % count;
            self.turn = (index + 1) % count;
            if free[index] == 0 {
                skipped += 1;
                continue;
            }
            skipped = 0;
            free[index] -= 1;
            let place = &self.places[index];
            seats.push(Seat { subscriber_id: place.subscriber_id, principal: place.principal.clone() });
        }
        seats
    }

    /// The next turn is that of whoever follows `subscriber_id`, the last one that got something.
    pub fn continue_after(&mut self, subscriber_id: Uuid) {
        if let Some(index) = self.places.iter().position(|place| place.subscriber_id == subscriber_id) {
            self.turn = index + 1;
        }
    }

    /// Gives a message to its subscriber; false: it is gone, and the lease is nobody's.
    pub fn hand(&mut self, subscriber_id: Uuid, handed: Handed) -> bool {
        let Some(place) = self.places.iter_mut().find(|place| place.subscriber_id == subscriber_id) else {
            return false;
        };
        let (Receipt { delivery_id, lease_id }, bytes) = (handed.receipt, handed.bytes);
        let given = place.sender.try_send(handed).is_ok();
        if given {
            place.held.insert(lease_id, (delivery_id, bytes));
            place.bytes += bytes;
        }
        given
    }

    /// A lease ended; true if it was held here.
    pub fn release(&mut self, subscriber_id: Uuid, lease_id: Uuid) -> bool {
        let place = self.places.iter_mut().find(|place| place.subscriber_id == subscriber_id);
        place.is_some_and(|place| place.forget(lease_id))
    }

    /// All subscribers.
    pub fn everybody(&self) -> Vec<Uuid> {
        self.places.iter().map(|place| place.subscriber_id).collect()
    }

    /// Subscribers that hold as much as they may.
    pub fn full(&self) -> Vec<Uuid> {
        let full = self.places.iter().filter(|place| place.is_full());
        full.map(|place| place.subscriber_id).collect()
    }

    /// Only these leases are held in truth by `asked`; true if some were not.
    pub fn correct(&mut self, asked: &[Uuid], held: &[(Uuid, Uuid)]) -> bool {
        let mut corrected = false;
        for place in self.places.iter_mut().filter(|place| asked.contains(&place.subscriber_id)) {
            let before = place.held.len();
            place.held.retain(|lease_id, _| held.contains(&(place.subscriber_id, *lease_id)));
            place.bytes = place.held.values().map(|(_, bytes)| bytes).sum();
            corrected |= place.held.len() < before;
        }
        corrected
    }
}
