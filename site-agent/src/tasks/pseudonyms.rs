//! Who is behind the pseudonyms of a folder: `subjects.csv`, so that a clinician finds the patient. For this site alone: it is
//! readable by its user only, and nothing that sends reads it.

use std::collections::BTreeMap;
use std::path::Path;

use data::SubjectKey;

use crate::durable::{self, DiskError};

/// Writes a row for each of these subjects whose identifier is known, and says how many there are.
pub fn write_pseudonyms(
    folder: &Path,
    subjects: &[SubjectKey],
    identifiers: &BTreeMap<SubjectKey, String>,
) -> Result<usize, DiskError> {
    let known = subjects.iter().filter_map(|subject| Some((subject, identifiers.get(subject)?)));
    // Tables of labels take no quote into an identifier.
    let rows: Vec<String> = known.map(|(subject, identifier)| format!("{subject},\"{identifier}\"\n")).collect();
    durable::write_private(&folder.join("subjects.csv"), format!("pseudonym,subject\n{}", rows.concat()).as_bytes())?;
    Ok(rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_named_as_the_sites_own_tables_name_it_and_one_they_do_not_know_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, other] = [1, 2, 3].map(|n| SubjectKey([n; 16]));
        let identifiers = BTreeMap::from([(two, "PAT 7, old".to_owned()), (other, "PAT 9".to_owned())]);
        assert_eq!(write_pseudonyms(folder.path(), &[one, two], &identifiers).unwrap(), 1);
        let text = std::fs::read_to_string(folder.path().join("subjects.csv")).unwrap();
        assert_eq!(text, format!("pseudonym,subject\n{two},\"PAT 7, old\"\n"));
    }
}
