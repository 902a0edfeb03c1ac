//! Artifacts as a whole.

use std::os::unix::fs::PermissionsExt;

use sha2::{Digest, Sha256};
use tar::EntryType;

use super::*;

/// The bytes of an archive of one small file.
const ARCHIVE: u64 = 2048;
const ROOM: u64 = 64 << 20;
const OWNER: Owner = Owner { store: Uuid::from_u128(1), has_history: true };

struct Fixture {
    folder: tempfile::TempDir,
    artifacts: Artifacts,
}

impl Fixture {
    fn new(max_bytes: u64) -> Self {
        Self::bounded(ArtifactBounds { max_bytes, artifacts_bytes: ROOM, uploads_bytes: ROOM })
    }

    fn bounded(bounds: ArtifactBounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), bounds, OWNER, &HashSet::new()).unwrap();
        Self { folder, artifacts }
    }

    /// A later start, for a catalog that names these.
    fn reopen(&mut self, owner: Owner, used: &[&ArtifactId]) {
        let used = used.iter().copied().cloned().collect();
        self.artifacts = Artifacts::open(self.folder.path(), self.artifacts.bounds, owner, &used).unwrap();
    }

    /// Has the upload of an artifact wait no longer.
    fn settle(&self, id: &ArtifactId) {
        self.artifacts.reserve(id).unwrap().refused();
    }

    fn retain(&self, used: &[&ArtifactId]) {
        let used: HashSet<_> = used.iter().copied().cloned().collect();
        self.artifacts.retain(|| used.clone()).unwrap();
    }

    fn add(&self, archive: &[u8]) -> Result<ArtifactId, ArtifactError> {
        let path = self.folder.path().join("upload");
        fs::write(&path, archive).unwrap();
        self.artifacts.add(&path)
    }

    /// The names in the folder of artifacts, finished or not, in order; without the note.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("artifacts")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "clipper.json").collect();
        names.sort();
        names
    }
}

/// An archive of one entry under exactly this name, which the tar crate would refuse to write.
fn archive(name: &str, kind: EntryType, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o755);
    if kind.is_symlink() || kind.is_hard_link() {
        header.set_link_name("elsewhere").unwrap();
    }
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, data).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn an_archive_is_unpacked_under_its_hash_and_stored_once() {
    let fixture = Fixture::new(1000);
    let archive = archive("./model/run.sh", EntryType::Regular, b"exit 0");
    let id = fixture.add(&archive).unwrap();
    assert_eq!(id, ArtifactId::of(&Sha256::digest(&archive)));
    assert_eq!(fixture.add(&archive).unwrap(), id);
    assert_eq!(fixture.names(), [id.to_string(), format!("{id}.tar")]);
    let mut kept = Vec::new();
    io::Read::read_to_end(&mut fixture.artifacts.archive(&id).unwrap().unwrap(), &mut kept).unwrap();
    assert_eq!(kept, archive);
    let file = fixture.artifacts.path(&id).join("model/run.sh");
    assert_eq!(fs::read(&file).unwrap(), b"exit 0");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_would_leave_its_folder_or_is_no_file_is_refused() {
    let fixture = Fixture::new(1000);
    for (name, kind, why) in [
        ("../evil", EntryType::Regular, "'..'"),
        ("a/../../evil", EntryType::Regular, "'..'"),
        ("/etc/evil", EntryType::Regular, "absolute path"),
        ("link", EntryType::Symlink, "is a link"),
        ("link", EntryType::Link, "is a link"),
        ("pipe", EntryType::Fifo, "neither a file nor a folder"),
        ("disk", EntryType::Block, "neither a file nor a folder"),
    ] {
        let error = fixture.add(&archive(name, kind, b"")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(name), "{error}");
        assert!(fixture.names().is_empty(), "{name}");
    }
    assert!(!fixture.folder.path().join("evil").exists());
}

#[test]
fn a_name_that_no_file_can_have_is_the_archives_fault() {
    let fixture = Fixture::new(1000);
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["a", "a/b"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, name, &b"1"[..]).unwrap();
    }
    let error = fixture.add(&builder.into_inner().unwrap()).unwrap_err();
    assert!(matches!(&error, ArtifactError::Refused { path, .. } if path == "a/b"), "{error}");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, "n".repeat(300), &b"1"[..]).unwrap();
    let error = fixture.add(&builder.into_inner().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("has too long a name"), "{error}");
    assert!(fixture.names().is_empty());
}

#[test]
fn what_is_too_large_or_not_an_archive_is_refused() {
    let fixture = Fixture::new(10);
    assert!(fixture.add(&archive("ten", EntryType::Regular, &[1; 10])).is_ok());
    let error = fixture.add(&archive("eleven", EntryType::Regular, &[1; 11])).unwrap_err();
    assert!(matches!(error, ArtifactError::TooLarge { max_bytes: 10 }), "{error}");
    let error = fixture.add(&[7; 2000]).unwrap_err();
    assert!(matches!(error, ArtifactError::Unreadable(_)), "{error}");
    let error = fixture.add(&[0; 1024]).unwrap_err();
    assert!(error.to_string().ends_with("it has no entries"), "{error}");
    let cut_off = &archive("ten", EntryType::Regular, &[1; 10])[..515];
    assert!(fixture.add(cut_off).is_err());
    assert_eq!(fixture.names().len(), 2);
}

/// An archive of files whose names may be long.
fn archive_of(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut long = tar::Header::new_gnu();
        long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
        long.set_entry_type(EntryType::GNULongName);
        long.set_size(name.len() as u64);
        long.set_cksum();
        builder.append(&long, name.as_bytes()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_path_that_is_too_long_or_too_deep_is_refused_before_a_folder_is_made() {
    let fixture = Fixture::new(1000);
    let refused = |name: String| fixture.add(&archive_of([name])).unwrap_err().to_string();
    let error = refused("a/".repeat(32 << 10));
    assert!(error.ends_with("is a path of 65536 bytes; at most 4096 are allowed"), "{error}");
    assert!(error.len() < 1000);
    let error = refused("a/".repeat(64) + "a");
    assert!(error.ends_with("is a path of 65 names; at most 64 are allowed"), "{error}");
    assert!(fixture.add(&archive_of(["a/".repeat(63) + "a"])).is_ok());
}

#[test]
fn folders_that_only_paths_name_count_as_entries() {
    let mut fixture = Fixture::new(1000);
    fixture.artifacts.max_entries = 100;
    let deep = |number: usize| format!("{number}/") + &"a/".repeat(48) + "a";
    assert!(fixture.add(&archive_of([deep(0)])).is_ok());
    let error = fixture.add(&archive_of((1..4).map(deep))).unwrap_err();
    assert!(matches!(error, ArtifactError::TooLarge { .. }), "{error}");
    assert_eq!(fixture.names().len(), 2);
}

#[test]
fn a_header_that_is_too_long_is_not_read_into_memory() {
    let fixture = Fixture::new(1000);
    let error = fixture.add(&archive_of(["n".repeat(2 << 20)])).unwrap_err().to_string();
    assert!(error.ends_with("the header of an entry is longer than 1048576 bytes"), "{error}");
}

#[test]
fn data_of_a_folder_is_no_part_of_the_next_header() {
    let fixture = Fixture::new(1000);
    let mut both = archive("folder", EntryType::Directory, &vec![1; 2 << 20]);
    both.truncate(both.len() - 1024);
    both.extend(archive("file", EntryType::Regular, b"1"));
    assert!(fixture.add(&both).is_ok());
}

#[test]
fn only_used_and_awaited_artifacts_are_retained_and_unfinished_ones_swept_away() {
    let mut fixture = Fixture::new(1000);
    let used = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
    let unused = fixture.add(&archive("b", EntryType::Regular, b"b")).unwrap();
    fs::create_dir(fixture.folder.path().join("artifacts/.interrupted")).unwrap();
    fs::write(fixture.folder.path().join("artifacts/.DS_Store"), "not ours").unwrap();
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&unused), "it was just uploaded");
    fixture.settle(&unused);
    fixture.settle(&used);
    fixture.retain(&[&used]);
    assert!(fixture.artifacts.contains(&used) && !fixture.artifacts.contains(&unused));
    fixture.reopen(OWNER, &[]);
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&used), "somebody may name it after the start");
    fs::remove_dir_all(fixture.artifacts.path(&used)).unwrap();
    fixture.reopen(OWNER, &[]);
    assert_eq!(fixture.names(), [".DS_Store"], "an archive without its files is the rest of a removal");
}

#[test]
fn all_artifacts_together_are_bounded_and_a_removed_one_makes_room() {
    let each = 9 + ARCHIVE;
    let bounds = ArtifactBounds { max_bytes: 10, artifacts_bytes: 3 * each + 3, uploads_bytes: ROOM };
    let mut fixture = Fixture::bounded(bounds);
    let file = |name| archive(name, EntryType::Regular, &[1; 9]);
    let first = fixture.add(&file("a")).unwrap();
    for name in ["b", "c"] {
        fixture.add(&file(name)).unwrap();
    }
    for _ in 0..2 {
        let error = fixture.add(&file("d")).unwrap_err().to_string();
        let sentence = "all artifacts may take 6174 bytes, and 6171 are taken: delete versions that are not needed, or \
                        start management with a larger --artifacts-bytes";
        assert_eq!(error, sentence);
        assert_eq!(fixture.names().len(), 6);
        fixture.reopen(OWNER, &[]);
    }
    fixture.settle(&first);
    fixture.retain(&[]);
    assert!(fixture.add(&file("d")).is_ok());
}

#[test]
fn uploads_that_no_deployment_names_are_bounded_together() {
    let uploads_bytes = 2 * (9 + ARCHIVE) + 5;
    let fixture = Fixture::bounded(ArtifactBounds { max_bytes: 10, artifacts_bytes: ROOM, uploads_bytes });
    let file = |name| archive(name, EntryType::Regular, &[1; 9]);
    let arriving = || fixture.artifacts.upload_room().grow(ARCHIVE);
    let first = fixture.add(&file("a")).unwrap();
    fixture.add(&file("b")).unwrap();
    let error = arriving().unwrap_err().to_string();
    assert!(
        error.starts_with("uploads that no deployment names yet may take 4119 bytes, and 4114 are"),
        "{error}"
    );
    fixture.settle(&first);
    arriving().unwrap();
    let _held = {
        let mut room = fixture.artifacts.upload_room();
        room.grow(ARCHIVE + 6).unwrap();
        room
    };
    assert!(arriving().is_err(), "what is on its way in counts");
    let error = fixture.add(&file("c")).unwrap_err();
    assert!(matches!(error, ArtifactError::UploadsFull { .. }), "its files do not fit: {error}");
}

#[test]
fn an_artifact_that_a_deployment_has_asked_for_is_not_removed_before_the_deployment_is_on_record() {
    let fixture = Fixture::new(1000);
    let id = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
    let reserved = fixture.artifacts.reserve(&id).unwrap();
    fixture.settle(&id);
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&id));
    drop(reserved);
    // On record only after the first look.
    let looks = std::cell::Cell::new(0);
    let used = || {
        looks.set(looks.get() + 1);
        if looks.get() == 1 { HashSet::new() } else { HashSet::from([id.clone()]) }
    };
    fixture.artifacts.retain(used).unwrap();
    assert!(fixture.artifacts.contains(&id));
    fixture.retain(&[]);
    assert!(fixture.artifacts.reserve(&id).is_none());
}

#[test]
fn an_upload_outlives_the_refusal_of_a_deployment_that_another_upload_was_for() {
    let fixture = Fixture::new(1000);
    let file = archive("a", EntryType::Regular, b"a");
    let id = fixture.add(&file).unwrap();
    fixture.add(&file).unwrap();
    fixture.settle(&id);
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&id));
    fixture.add(&file).unwrap();
    fixture.artifacts.reserve(&id).unwrap().named();
    fixture.retain(&[]);
    assert!(!fixture.artifacts.contains(&id), "a deployment that names it is what every upload was for");
}

#[test]
fn a_new_catalog_keeps_the_artifacts_of_a_lost_one_until_it_has_named_them_itself() {
    let mut fixture = Fixture::new(1000);
    let id = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
    let new = Owner { store: Uuid::from_u128(2), has_history: false };
    fixture.reopen(new, &[]);
    assert!(!fixture.artifacts.awaited().contains(&id), "it is no upload");
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&id));
    fixture.artifacts.adopt(&id);
    fixture.retain(&[]);
    assert!(!fixture.artifacts.contains(&id));
}

#[test]
fn nothing_is_removed_while_a_backup_is_made() {
    let fixture = Fixture::new(1000);
    let id = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
    fixture.settle(&id);
    let hold = fixture.artifacts.hold();
    fixture.retain(&[]);
    assert!(fixture.artifacts.contains(&id));
    drop(hold);
    fixture.retain(&[]);
    assert!(!fixture.artifacts.contains(&id));
}

#[test]
fn the_archive_of_an_artifact_of_an_older_clipper_is_kept_once_it_is_uploaded_again() {
    let mut fixture = Fixture::new(1000);
    let file = archive("a", EntryType::Regular, b"a");
    let id = fixture.add(&file).unwrap();
    fs::remove_file(fixture.artifacts.archive_path(&id)).unwrap();
    fixture.reopen(OWNER, &[&id]);
    assert!(fixture.artifacts.archive(&id).unwrap().is_none());
    assert_eq!(fixture.add(&file).unwrap(), id);
    assert!(fixture.artifacts.archive(&id).unwrap().is_some());
    assert_eq!(fixture.artifacts.awaited_bytes(), ARCHIVE + 1);
}
