//! Telling every part of the pipeline to stop.

use tokio::sync::watch;

/// The side that asks for shutdown. Dropping it asks, too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

/// The side that is asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A trigger and what it triggers.
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// True once shutdown was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Resolves once shutdown is asked for. Cancel safe.
    pub async fn asked(&mut self) {
        // An error means that the trigger is gone, which asks as well.
        drop(self.0.wait_for(|asked| *asked).await);
    }
}

impl ShutdownTrigger {
    /// Asks every holder of the other side to drain and stop.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
}
