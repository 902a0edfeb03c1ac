//! Errors of requests whose options do not fit the application.

use clipper_rpc::names::ModelVersion;

/// Why the options of a request do not fit the application.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// There is nothing of which it could be a version.
    #[error("'version' cannot be given: no model is linked to application '{application}'")]
    NoLinkedModel {
        /// The application.
        application: String,
    },
    /// It could be a version of several models.
    #[error(
        "'version' cannot be given: it pins a version of a single linked model, and {models} are linked to \
         application '{application}'"
    )]
    SeveralModels {
        /// The application.
        application: String,
        /// How many there are.
        models: usize,
    },
    /// The linked model has no such version.
    #[error("model '{model}' has no version '{version}'; it has: {known}")]
    NoSuchVersion {
        /// The linked model.
        model: String,
        /// The version that was asked for.
        version: ModelVersion,
        /// The first of the versions that there are.
        known: String,
    },
    /// The application's policy cannot do with the context.
    #[error("context: {0}")]
    Context(String),
    /// Every input may be asked of every model.
    #[error(
        "input_batch: {inputs} inputs for {models} models are {} queries; one request takes at most {most}",
        .inputs * .models
    )]
    TooMany {
        /// The inputs of the request.
        inputs: usize,
        /// The models among which the application selects.
        models: usize,
        /// The most queries that one request may be.
        most: usize,
    },
}
