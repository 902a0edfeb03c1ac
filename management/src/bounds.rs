//! Bounds of the catalog's records: every frontend holds all of them, and is sent each one that changes.
//!
//! Checked where records are decided upon. Invariant: no edit makes a record or the catalog exceed a bound. Records that
//! were stored before a bound was set stay, and can still be deleted or made smaller.

use clipper_rpc::catalog::{Application, Change, Model, ModelVersionSpec};

use crate::catalog::{Catalog, Edit};
use crate::deployment::{DeploymentSpec, Run};
use crate::deployments::Deployment;
use crate::refusal::Refusal;

/// The most applications.
const MAX_APPLICATIONS: usize = 10_000;
/// The most models.
const MAX_MODELS: usize = 10_000;
/// The most links of an application.
const MAX_LINKS: usize = 1024;
/// The most versions of a model.
const MAX_VERSIONS: usize = 1000;
/// The longest default output, in bytes.
const MAX_DEFAULT_OUTPUT_BYTES: usize = 64 << 10;
/// The most labels of a version.
const MAX_LABELS: usize = 64;
/// The longest label, in bytes.
const MAX_LABEL_BYTES: usize = 256;
/// The longest `container_name`, path or program, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// The most words of a command.
const MAX_WORDS: usize = 1024;
/// The longest command, in bytes: Linux takes no longer word than this.
const MAX_COMMAND_BYTES: usize = 128 << 10;
/// The most variables in the environment of a deployment.
const MAX_VARIABLES: usize = 1024;
/// The longest environment of a deployment, names and values together, in bytes.
const MAX_ENVIRONMENT_BYTES: usize = 128 << 10;

/// The most memory of all records, roughly. An export of it is shorter than the longest import.
const MAX_CATALOG_BYTES: usize = 32 << 20;
/// The memory of a record, beside its texts, roughly.
const RECORD_BYTES: usize = 512;

/// Refuses what is more than allowed.
fn at_most(what: &'static str, unit: &'static str, found: usize, most: usize) -> Result<(), Refusal> {
    if found > most { Err(Refusal::TooLong { what, found, most, unit }) } else { Ok(()) }
}

/// Bounds an application that was added or changed from `before`.
///
/// # Errors
/// The first bound that it exceeds.
pub(crate) fn application(application: &Application, before: Option<&Application>) -> Result<(), Refusal> {
    if before.is_none_or(|before| before.default_output != application.default_output) {
        let found = application.default_output.len();
        at_most("default_output", "bytes", found, MAX_DEFAULT_OUTPUT_BYTES)?;
    }
    let found = application.linked_models.len();
    if found > MAX_LINKS && before.is_none_or(|before| found > before.linked_models.len()) {
        return Err(Refusal::TooManyLinks { app: application.name.clone(), found, most: MAX_LINKS });
    }
    Ok(())
}

/// Whether one more application may be added.
///
/// # Errors
/// If there are as many as are allowed.
pub(crate) fn one_more_application(catalog: &Catalog) -> Result<(), Refusal> {
    one_more("applications", catalog.applications.len(), MAX_APPLICATIONS)
}

/// Whether one more model may be added.
///
/// # Errors
/// If there are as many as are allowed.
pub(crate) fn one_more_model(catalog: &Catalog) -> Result<(), Refusal> {
    one_more("models", catalog.models.len(), MAX_MODELS)
}

fn one_more(what: &'static str, found: usize, most: usize) -> Result<(), Refusal> {
    if found >= most { Err(Refusal::TooMany { what, found, most }) } else { Ok(()) }
}

/// Bounds the number of versions of a model to which some were added.
///
/// # Errors
/// If there are too many.
pub(crate) fn versions(model: &Model) -> Result<(), Refusal> {
    let found = model.versions.len();
    if found > MAX_VERSIONS {
        return Err(Refusal::TooManyVersions { model: model.name.clone(), found, most: MAX_VERSIONS });
    }
    Ok(())
}

/// Bounds a version that is added.
///
/// # Errors
/// The first bound that it exceeds.
pub(crate) fn version(version: &ModelVersionSpec) -> Result<(), Refusal> {
    labels(&version.labels)?;
    at_most("container_name", "bytes", version.container_name.len(), MAX_TEXT_BYTES)?;
    at_most("model_data_path", "bytes", version.model_data_path.len(), MAX_TEXT_BYTES)
}

/// Bounds the labels of a version.
///
/// # Errors
/// The first bound that they exceed.
pub(crate) fn labels(labels: &[String]) -> Result<(), Refusal> {
    at_most("labels", "labels", labels.len(), MAX_LABELS)?;
    let longest = labels.iter().map(String::len).max().unwrap_or_default();
    at_most("Each label", "bytes", longest, MAX_LABEL_BYTES)
}

/// Bounds a deployment.
///
/// # Errors
/// The first bound that it exceeds.
pub(crate) fn deployment(spec: &DeploymentSpec) -> Result<(), Refusal> {
    if let Run::Command(words) = &spec.run {
        let words = words.as_slice();
        at_most("command", "words", words.len(), MAX_WORDS)?;
        at_most("command", "bytes", words.iter().map(String::len).sum(), MAX_COMMAND_BYTES)?;
    }
    at_most("environment", "variables", spec.environment.iter().count(), MAX_VARIABLES)?;
    let bytes = spec.environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    at_most("environment", "bytes", bytes, MAX_ENVIRONMENT_BYTES)?;
    for (what, path) in [("model_data_path", &spec.model_data_path), ("python", &spec.python)] {
        let found = path.as_ref().map_or(0, |path| path.as_os_str().len());
        at_most(what, "bytes", found, MAX_TEXT_BYTES)?;
    }
    Ok(())
}

/// Bounds the catalog to which an edit leads. One that makes it no larger is allowed in any case.
///
/// # Errors
/// If the catalog would be too large.
pub(crate) fn catalog(catalog: &Catalog, edit: &Edit) -> Result<(), Refusal> {
    let (mut added, mut removed) = (0, 0);
    for change in &edit.changes {
        added += size_of_change(change);
        removed += size_of_replaced(catalog, change);
    }
    for (model, deployment) in &edit.deployments {
        added += deployment.as_ref().map_or(0, size_of_deployment);
        removed += catalog.deployments.get(model).map_or(0, |before| size_of_deployment(before));
    }
    let found = (catalog.bytes + added).saturating_sub(removed);
    if added > removed && found > MAX_CATALOG_BYTES {
        return Err(Refusal::CatalogTooLarge { found, most: MAX_CATALOG_BYTES });
    }
    Ok(())
}

/// The memory of the record in a change, roughly.
pub(crate) fn size_of_change(change: &Change) -> usize {
    match change {
        Change::PutApplication { application } => size_of_application(application),
        Change::PutModel { model } => size_of_model(model),
        Change::DeleteApplication { .. } | Change::DeleteModel { .. } => 0,
    }
}

/// The memory of the record that a change replaces or deletes, roughly.
pub(crate) fn size_of_replaced(catalog: &Catalog, change: &Change) -> usize {
    match change {
        Change::PutApplication { application: Application { name, .. } }
        | Change::DeleteApplication { name } => {
            catalog.applications.get(name).map_or(0, |before| size_of_application(before))
        }
        Change::PutModel { model: Model { name, .. } } | Change::DeleteModel { name } => {
            catalog.models.get(name).map_or(0, |before| size_of_model(before))
        }
    }
}

pub(crate) fn size_of_application(application: &Application) -> usize {
    RECORD_BYTES + application.default_output.len() + 64 * application.linked_models.len()
}

pub(crate) fn size_of_model(model: &Model) -> usize {
    let version = |version: &ModelVersionSpec| {
        let labels = version.labels.iter().map(|label| 32 + label.len()).sum::<usize>();
        RECORD_BYTES + labels + version.container_name.len() + version.model_data_path.len()
    };
    RECORD_BYTES + model.versions.values().map(version).sum::<usize>()
}

pub(crate) fn size_of_deployment(deployment: &Deployment) -> usize {
    let spec = &deployment.spec;
    let words = match &spec.run {
        Run::Command(words) => words.as_slice().iter().map(|word| 32 + word.len()).sum(),
        Run::Kind(_) => 0,
    };
    let variables = spec.environment.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
    let paths = [&spec.model_data_path, &spec.python].into_iter().flatten();
    RECORD_BYTES + words + variables + paths.map(|path| path.as_os_str().len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applications::tests::{app, edited};
    use crate::applications::{self, ApplicationUpdate};
    use crate::deployments;
    use crate::models::tests::{doubles, model_id};
    use crate::models::{self, Adding, VersionUpdate};

    fn sentence<T: std::fmt::Debug>(refused: Result<T, Refusal>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn the_records_of_an_application_are_bounded() {
        let empty = Catalog::default();
        let long = Application { default_output: "x".repeat(65_537), ..app("a", &[]) };
        assert_eq!(
            sentence(applications::add(&empty, long)),
            "default_output must have at most 65536 bytes; it has 65537"
        );
        let names: Vec<String> = (0..1025).map(|number| format!("m{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let linked = |count: usize| {
            let policy = clipper_rpc::selection::Policy::Mean {};
            let selection = clipper_rpc::selection::Selection { policy, ..Default::default() };
            Application { selection, ..app("a", &names[..count]) }
        };
        assert!(applications::add(&empty, linked(1024)).is_ok());
        let too_many = "Application 'a' would be linked to 1025 models; at most 1024 are allowed";
        assert_eq!(sentence(applications::add(&empty, linked(1025))), too_many);
        let full = edited(empty.clone(), applications::add(&empty, linked(1024)));
        let full =
            edited(full.clone(), models::add(&full, &model_id("m1024", "1"), doubles(), Adding::Current));
        let one_more = applications::link(&full, &"a".parse().unwrap(), vec!["m1024".parse().unwrap()]);
        assert_eq!(sentence(one_more), too_many);
    }

    #[test]
    fn the_records_of_a_version_are_bounded() {
        let empty = Catalog::default();
        let add = |version| models::add(&empty, &model_id("m", "1"), version, Adding::Current);
        let labels = |count: usize, bytes: usize| vec!["l".repeat(bytes); count];
        for (version, expected) in [
            (
                ModelVersionSpec { labels: labels(65, 1), ..doubles() },
                "labels must have at most 64 labels; it has 65",
            ),
            (
                ModelVersionSpec { labels: labels(1, 257), ..doubles() },
                "Each label must have at most 256 bytes; it has 257",
            ),
            (
                ModelVersionSpec { container_name: "c".repeat(4097), ..doubles() },
                "container_name must have at most 4096 bytes; it has 4097",
            ),
            (
                ModelVersionSpec { model_data_path: "p".repeat(4097), ..doubles() },
                "model_data_path must have at most 4096 bytes; it has 4097",
            ),
        ] {
            assert_eq!(sentence(add(version.clone())), expected);
            let model = Model {
                name: "m".parse().unwrap(),
                current_version: None,
                versions: [("1".parse().unwrap(), version)].into(),
            };
            assert_eq!(sentence(deployments::import(&empty, vec![], vec![model], vec![])), expected);
        }
        assert!(add(ModelVersionSpec { labels: labels(64, 256), ..doubles() }).is_ok());
    }

    #[test]
    fn a_model_has_a_bounded_number_of_versions() {
        let mut catalog = Catalog::default();
        let version = |number: usize| model_id("m", &number.to_string());
        for number in 0..1000 {
            let edit = models::add(&catalog, &version(number), doubles(), Adding::Current);
            catalog.apply(&edit.unwrap());
        }
        assert_eq!(
            sentence(models::add(&catalog, &version(1000), doubles(), Adding::Current)),
            "Model with name 'm' would have 1001 versions; at most 1000 are allowed: delete some first"
        );
        catalog.apply(&models::delete_version(&catalog, &version(7)).unwrap());
        assert!(models::add(&catalog, &version(1000), doubles(), Adding::Current).is_ok());
    }

    #[test]
    fn a_loop_that_adds_applications_or_models_ends_in_a_sentence() {
        let mut catalog = Catalog::default();
        let first = models::add(&catalog, &model_id("n0", "1"), doubles(), Adding::Current).unwrap();
        let Change::PutModel { model } = &first.changes[0] else { panic!("a model is added") };
        for number in 0..MAX_APPLICATIONS {
            let name = format!("n{number}");
            let model = Model { name: name.parse().unwrap(), ..model.clone() };
            let changes =
                vec![Change::PutApplication { application: app(&name, &[]) }, Change::PutModel { model }];
            catalog.apply(&Edit { changes, ..Edit::default() });
        }
        assert_eq!(
            sentence(applications::add(&catalog, app("one-more", &[]))),
            "There are 10000 applications; at most 10000 are allowed: delete some first"
        );
        assert_eq!(
            sentence(models::add(&catalog, &model_id("one-more", "1"), doubles(), Adding::Aside)),
            "There are 10000 models; at most 10000 are allowed: delete some first"
        );
        assert!(models::add(&catalog, &model_id("n1", "2"), doubles(), Adding::Aside).is_ok());
    }

    #[test]
    fn a_deployment_is_bounded() {
        let bounded = |what: serde_json::Value| {
            let mut spec = serde_json::json!({
                "model": {"name": "m", "version": "1"}, "input_type": "doubles", "num_replicas": 1,
                "run": {"command": ["run"]},
            });
            spec.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
            let spec: DeploymentSpec = serde_json::from_value(spec).unwrap();
            deployments::begin(&Catalog::default(), spec, doubles())
        };
        let variables = |count: usize| -> std::collections::BTreeMap<String, String> {
            (0..count).map(|number| (format!("V{number}"), String::new())).collect()
        };
        for (what, expected) in [
            (
                serde_json::json!({"run": {"command": vec!["w"; 1025]}}),
                "command must have at most 1024 words; it has 1025",
            ),
            (
                serde_json::json!({"run": {"command": ["w".repeat(131_073)]}}),
                "command must have at most 131072 bytes; it has 131073",
            ),
            (
                serde_json::json!({"environment": variables(1025)}),
                "environment must have at most 1024 variables; it has 1025",
            ),
            (
                serde_json::json!({"environment": {"V": "v".repeat(131_072)}}),
                "environment must have at most 131072 bytes; it has 131073",
            ),
            (
                serde_json::json!({"model_data_path": "p".repeat(4097)}),
                "model_data_path must have at most 4096 bytes; it has 4097",
            ),
            (
                serde_json::json!({"python": "p".repeat(4097)}),
                "python must have at most 4096 bytes; it has 4097",
            ),
        ] {
            assert_eq!(sentence(bounded(what)), expected);
        }
        assert!(bounded(serde_json::json!({"environment": variables(1024)})).is_ok());
    }

    #[test]
    fn what_was_stored_before_a_bound_can_still_be_changed_and_made_smaller() {
        let names: Vec<String> = (0..2000).map(|number| format!("m{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let policy = clipper_rpc::selection::Policy::Mean {};
        let selection = clipper_rpc::selection::Selection { policy, ..Default::default() };
        let old = Application { default_output: "x".repeat(100_000), selection, ..app("a", &names) };
        let labels = vec!["l".repeat(1000); 100];
        let model = Model {
            name: "m".parse().unwrap(),
            current_version: None,
            versions: [("1".parse().unwrap(), ModelVersionSpec { labels, ..doubles() })].into(),
        };
        let mut catalog = Catalog::default();
        let changes = vec![Change::PutApplication { application: old }, Change::PutModel { model }];
        catalog.apply(&Edit { changes, ..Edit::default() });
        let name: clipper_rpc::names::AppName = "a".parse().unwrap();
        let update = ApplicationUpdate { cache: Some(false), ..ApplicationUpdate::default() };
        assert!(applications::update(&catalog, name.clone(), update).is_ok());
        assert!(applications::unlink(&catalog, &name, &["m7".parse().unwrap()]).is_ok());
        let id = model_id("m", "1");
        let update = VersionUpdate { cache: Some(false), ..VersionUpdate::default() };
        assert!(models::update_version(&catalog, &id, update).is_ok());
        let update = VersionUpdate { labels: Some(vec!["l".repeat(257)]), ..VersionUpdate::default() };
        assert!(models::update_version(&catalog, &id, update).is_err());
        assert!(models::set_version(&catalog, &id).is_ok());
    }

    #[test]
    fn the_catalog_as_a_whole_is_bounded_and_can_be_made_smaller_beyond_that() {
        let mut catalog = Catalog::default();
        let with_output =
            |name: &str, bytes| Application { default_output: "x".repeat(bytes), ..app(name, &[]) };
        let mut number = 0;
        let refused = loop {
            number += 1;
            let edit = applications::add(&catalog, with_output(&format!("a{number}"), 65_536)).unwrap();
            match super::catalog(&catalog, &edit) {
                Ok(()) => catalog.apply(&edit),
                Err(refused) => break refused.to_string(),
            }
        };
        let expected = "; at most 33554432 are allowed: delete what is not needed first";
        assert!(refused.starts_with("The catalog would take 33") && refused.ends_with(expected), "{refused}");
        assert!((500..=512).contains(&number), "{number}");
        // As is one that was stored before.
        let changes = vec![Change::PutApplication { application: with_output("large", 1 << 20) }];
        catalog.apply(&Edit { changes, ..Edit::default() });
        let smaller = vec![Change::PutApplication { application: with_output("large", 1000) }];
        assert_eq!(super::catalog(&catalog, &Edit { changes: smaller, ..Edit::default() }), Ok(()));
        for name in catalog.applications.keys().cloned().collect::<Vec<_>>() {
            let edit = applications::delete(&catalog, name).unwrap();
            assert_eq!(super::catalog(&catalog, &edit), Ok(()));
            catalog.apply(&edit);
        }
        assert_eq!(catalog.bytes, 0);
    }
}
