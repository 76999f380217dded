//! What an OpenAPI document says of an app: its operations, and the base paths below which they are served.
//!
//! [`document`] reads a document, [`source`] gets it from a file or a URL and notices when it changes.

pub mod document;
pub mod source;

pub use document::{BasePath, Document, DocumentError};
pub use source::{OpenApiSource, SourceError};
