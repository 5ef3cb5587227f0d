//! Uploaded files with several processes: the others have copies of process 0's files.

use super::super::Service;
use super::super::uploads::{UploadError, Uploads};
use super::orders::{Answer, Order, Refusal};

impl Service {
    /// Stores a file in the other processes, or deletes it there.
    ///
    /// # Errors
    /// [`UploadError::Elsewhere`] with the reason of a process that refuses.
    pub(in crate::service) async fn upload_elsewhere(
        &self,
        name: &str,
        content: Option<Vec<u8>>,
    ) -> Result<(), UploadError> {
        let Some(followers) = self.followers() else { return Ok(()) };
        let order = Order::Upload { name: name.to_owned(), content };
        for (follower, answer) in followers.order(&order).await {
            if let Answer::Refused(refusal) = answer {
                return Err(UploadError::Elsewhere(follower.refuses(refusal).to_string()));
            }
        }
        Ok(())
    }

    /// Copies all files of this process to the others, and deletes other files there.
    pub(in crate::service) async fn hand_uploads_over(&self) {
        let Some(followers) = self.followers() else { return };
        let paths = match self.with_uploads(Uploads::list).await {
            Ok(paths) => paths,
            Err(error) => return tracing::error!("uploads are not copied to the other processes: {error}"),
        };
        let named = paths.iter().filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)));
        let named: Vec<_> = named.collect();
        followers.order(&Order::KeepUploads(named.iter().map(|(name, _)| name.clone()).collect())).await;
        for (name, path) in named {
            let copied = match tokio::fs::read(path).await {
                Ok(content) => self.upload_elsewhere(&name, Some(content)).await,
                Err(error) => Err(UploadError::Io { path: path.clone(), error }),
            };
            if let Err(error) = copied {
                tracing::error!("the upload {name} is not copied to all processes: {error}");
            }
        }
    }

    /// Stores or deletes a file as process 0 orders.
    pub(super) async fn follow_upload(&self, name: String, content: Option<Vec<u8>>) -> Answer {
        let done = self.with_uploads(move |uploads| match content {
            Some(content) => uploads.put(&name, &content).map(drop),
            None => match uploads.delete(&name) {
                Err(UploadError::NotFound(_)) => Ok(()),
                deleted => deleted,
            },
        });
        answer(done.await)
    }

    /// Deletes all files except these.
    pub(super) async fn keep_uploads(&self, names: Vec<String>) -> Answer {
        answer(self.with_uploads(move |uploads| uploads.keep(&names)).await)
    }
}

fn answer(done: Result<(), UploadError>) -> Answer {
    match done {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(Refusal::Refused { text: error.to_string(), connector: false }),
    }
}
