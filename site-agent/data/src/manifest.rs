//! UK Biobank's manifest: which file belongs to which series, as a comma-separated table.
//!
//! Its header names `filename` (or `name`) and `series discription` (so spelled, or corrected). Its dates hold an unquoted comma ("Aug 30,
//! 2015"), so that a row has a field more than the header: fields are counted from whichever end they are nearer to the
//! date's column.

use std::collections::BTreeMap;

/// Whether an archive's entry is a manifest, also by its older, misspelt name.
pub(crate) fn is_manifest(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    last == "manifest.csv" || last == "manifest.cvs"
}

/// The series description of each file, as far as the table can be read.
pub(crate) fn descriptions(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let columns: Vec<String> = fields(lines.next().unwrap_or_default()).iter().map(|f| f.to_lowercase()).collect();
    let place = |names: &[&str]| columns.iter().position(|column| names.contains(&column.as_str()));
    let file = place(&["filename", "name", "file"]);
    let series = place(&["series discription", "series description", "seriesdescription"]);
    let date = place(&["date", "acquisition date", "acq_date", "acqdate"]).unwrap_or(columns.len());
    let (Some(file), Some(series)) = (file, series) else { return BTreeMap::new() };
    lines
        .filter_map(|line| {
            let fields = fields(line);
            let extra = fields.len().saturating_sub(columns.len());
            let field = |place: usize| fields.get(if place > date { place + extra } else { place });
            Some((field(file)?.clone(), field(series)?.clone()))
        })
        .filter(|(file, series)| !file.is_empty() && !series.is_empty())
        .collect()
}

/// A row's fields, without the quotes around and the spaces.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.trim_start_matches('\u{feff}').trim_end().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            _ => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_with_an_unquoted_comma_shifts_no_column() {
        let behind = "filename,patientid,date,series discription\n1.dcm,77,Aug 30, 2015,CINE_segmented_SAX_b1\n";
        let before = "name,series discription,date\n1.dcm,CINE_segmented_SAX_b1,Aug 30, 2015\r\n";
        let quoted = "filename,date,series description\n1.dcm,\"Aug 30, 2015\",CINE_segmented_SAX_b1\n";
        for table in [behind, before, quoted] {
            assert_eq!(descriptions(table.as_bytes())["1.dcm"], "CINE_segmented_SAX_b1", "{table}");
        }
    }

    #[test]
    fn both_spellings_of_the_manifests_name_are_known() {
        assert!(is_manifest("manifest.csv") && is_manifest("Manifest.CVS") && is_manifest("x/manifest.cvs"));
        assert!(!is_manifest("manifest.dcm"));
    }

    #[test]
    fn a_table_without_the_columns_or_with_other_bytes_gives_nothing() {
        assert!(descriptions(b"a,b\n1,2\n").is_empty());
        assert!(descriptions(&[0xff, 0x00, b'\n', 0xfe]).is_empty());
    }
}
