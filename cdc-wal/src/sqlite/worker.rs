//! A thread for what waits for the disk, so that reading the log does not.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle, Thread};

use cdc_core::{SourceError, SourceErrorKind};

/// Does one job at a time; the thread that follows is woken when it is done.
#[derive(Debug)]
pub(crate) struct Worker<Job, Done> {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Result<Done, SourceError>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

fn ended(name: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        format!("wait for the thread {name}: it ended"),
    )
}

impl<Job: Send + 'static, Done: Send + 'static> Worker<Job, Done> {
    /// Starts the thread. `work` is kept in it until the value is dropped.
    pub(crate) fn start(
        name: &str,
        mut work: impl FnMut(Job) -> Result<Done, SourceError> + Send + 'static,
    ) -> Result<Self, SourceError> {
        let (jobs, todo) = sync_channel::<Job>(1);
        let (tell, done) = sync_channel(1);
        let follower: Thread = thread::current();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for job in todo {
                    if tell.send(work(job)).is_err() {
                        return;
                    }
                    follower.unpark();
                }
            })
            .map_err(|cause| {
                let what = format!("start the thread {name}: {cause}");
                SourceError::new(SourceErrorKind::Io, what).with_cause(cause)
            })?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            busy: false,
            thread: Some(thread),
        })
    }

    /// Whether a job is being done, or its outcome was not taken yet.
    pub(crate) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a job; only while it is not busy.
    pub(crate) fn submit(&mut self, job: Job) -> Result<(), SourceError> {
        debug_assert!(!self.busy, "one job at a time");
        let jobs = self.jobs.as_ref();
        if jobs.is_none_or(|jobs| jobs.send(job).is_err()) {
            return Err(ended("of the reader"));
        }
        self.busy = true;
        Ok(())
    }

    /// The outcome of the job, once.
    pub(crate) fn poll(&mut self) -> Result<Option<Done>, SourceError> {
        if !self.busy {
            return Ok(None);
        }
        match self.done.try_recv() {
            Ok(done) => {
                self.busy = false;
                done.map(Some)
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended("of the reader")),
        }
    }

    /// Waits for the outcome of the job.
    pub(crate) fn wait(&mut self) -> Result<Option<Done>, SourceError> {
        if !self.busy {
            return Ok(None);
        }
        self.busy = false;
        match self.done.recv() {
            Ok(done) => done.map(Some),
            Err(_) => Err(ended("of the reader")),
        }
    }
}

impl<Job, Done> Drop for Worker<Job, Done> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What it holds must be closed before the files are; a panic was told before.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_elsewhere_and_told_once() {
        let mut worker = Worker::start("test", |n: u32| Ok(n + 1)).unwrap();
        assert!(worker.poll().unwrap().is_none());
        worker.submit(1).unwrap();
        assert!(worker.is_busy());
        assert_eq!(worker.wait().unwrap(), Some(2));
        assert_eq!(worker.wait().unwrap(), None);
        worker.submit(5).unwrap();
        let told = loop {
            if let Some(told) = worker.poll().unwrap() {
                break told;
            }
            thread::yield_now();
        };
        assert_eq!((told, worker.is_busy()), (6, false));
    }

    #[test]
    fn an_error_is_told_and_the_thread_goes_on() {
        let refuse = |n: u32| {
            let error = || SourceError::new(SourceErrorKind::Io, "no");
            if n == 0 { Err(error()) } else { Ok(n) }
        };
        let mut worker = Worker::start("test", refuse).unwrap();
        worker.submit(0).unwrap();
        assert!(worker.wait().is_err());
        worker.submit(3).unwrap();
        assert_eq!(worker.wait().unwrap(), Some(3));
    }
}
