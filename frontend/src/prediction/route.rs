//! Choice of the version that answers a query.

use std::collections::BTreeMap;

use clipper_rpc::names::ModelVersion;

use super::error::OptionsError;
use crate::application::ApplicationView;
use crate::computation::failure::Failure;
use crate::queue::VersionView;

/// The version that answers, or why none can.
pub(super) fn route<'a>(
    application: &'a ApplicationView,
    pinned: Option<&ModelVersion>,
) -> Result<Result<&'a VersionView, Failure>, OptionsError> {
    let Some(model) = &application.model else {
        return match pinned {
            None => Ok(Err(Failure::NoLinkedModels)),
            Some(_) => Err(OptionsError::NoLinkedModel { application: application.name.to_string() }),
        };
    };
    let Some(version) = pinned else { return Ok(model.current()) };
    if application.linked_models > 1 {
        let (application, models) = (application.name.to_string(), application.linked_models);
        return Err(OptionsError::SeveralModels { application, models });
    }
    match model.versions.get(version) {
        Some(version) => Ok(Ok(version)),
        None => Err(OptionsError::NoSuchVersion {
            model: model.name.to_string(),
            version: version.clone(),
            known: some_of(&model.versions),
        }),
    }
}

/// The first few versions in words, and how many more there are.
fn some_of(versions: &BTreeMap<ModelVersion, VersionView>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = versions.keys().take(SHOWN).map(ModelVersion::as_str).collect();
    match versions.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use clipper_rpc::names::ModelId;

    use std::sync::Arc;

    use super::*;
    use crate::queue::{Capacity, Queue};

    #[test]
    fn of_many_versions_the_first_few_are_named() {
        let id = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let queue = Arc::new(Queue::new(1, id, InputType::Ints, Capacity { queries: 1, bytes: 1 }));
        let version = VersionView { queue, cache: true };
        let versions = |count: usize| {
            (100..100 + count).map(|number| (number.to_string().parse().unwrap(), version.clone())).collect()
        };
        assert_eq!(some_of(&versions(2)), "100, 101");
        assert_eq!(some_of(&versions(500)), "100, 101, 102, 103, 104, 105, 106, 107, 108, 109 and 490 more");
    }
}
