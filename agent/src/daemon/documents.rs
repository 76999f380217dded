//! The OpenAPI document of a target: got before it is watched, and again when it changes.

use tokio::sync::mpsc;
use tracing::{error, info};

use crate::{
    config::{ConfigError, RouteConfig},
    openapi::Document,
};

/// The document as it is known, and where news of it comes from.
#[derive(Debug, Default)]
pub struct Documents {
    pub current: Option<Document>,
    changed: Option<mpsc::Receiver<Document>>,
}

impl Documents {
    /// Gets the document, if there is to be one.
    ///
    /// # Errors
    /// When it cannot be got, or is none that can be used.
    pub async fn open(routes: &RouteConfig) -> Result<Self, ConfigError> {
        let Some(mut source) = routes.source()? else { return Ok(Self::default()) };
        let document = source.load().await.map_err(|error| routes.about_openapi(error))?;
        Ok(Self { current: Some(document), changed: Some(source.follow()) })
    }

    /// Likewise, without waiting for it: it is news when it is there.
    pub fn expect(routes: &RouteConfig) -> Self {
        let source = routes.source().unwrap_or_else(|error| {
            error!(%error, "there is no OpenAPI document");
            None
        });
        let Some(mut source) = source else { return Self::default() };
        let (sender, changed) = mpsc::channel(1);
        tokio::spawn(async move {
            match source.load().await {
                Ok(document) => {
                    info!(operations = document.operations.len(), "OpenAPI document read");
                    let _ = sender.send(document).await; // the target is gone
                }
                Err(error) => error!(%error, "the OpenAPI document cannot be used until it changes"),
            }
            let mut changes = source.follow();
            while let Some(document) = changes.recv().await {
                if sender.send(document).await.is_err() {
                    return;
                }
            }
        });
        Self { current: None, changed: Some(changed) }
    }

    /// Takes news of the document; whether there is any.
    pub fn look(&mut self) -> bool {
        let Some(document) = self.changed.as_mut().and_then(|changed| changed.try_recv().ok()) else {
            return false;
        };
        self.current = Some(document);
        true
    }
}
