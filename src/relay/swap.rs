//! A value that is replaced as a whole while others use it, such as the settings in force or the database.

use std::sync::{Arc, PoisonError, RwLock};

/// A value that is replaced as a whole. Who holds the old one goes on with it.
#[derive(Debug, Default)]
pub struct Swap<T>(RwLock<Arc<T>>);

impl<T> Swap<T> {
    /// Begins with this value.
    pub fn new(value: T) -> Swap<T> {
        Swap(RwLock::new(Arc::new(value)))
    }

    /// The value in force.
    pub fn load(&self) -> Arc<T> {
        // Replacing is one assignment: a panic cannot leave half of it.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in its place.
    pub fn store(&self, value: T) {
        let old = {
            let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(value))
        };
        // Whatever the end of the old one takes, nobody waits for it.
        drop(old);
    }
}
