//! Certificates as the dictionary that `SSLObject.getpeercert()` returns.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rloop_tls::certificate::{AlternativeName, Description, Name};

/// The dictionary of a certificate.
pub(super) fn dictionary<'py>(
    py: Python<'py>,
    description: &Description,
) -> PyResult<Bound<'py, PyDict>> {
    let dictionary = PyDict::new(py);
    dictionary.set_item(intern!(py, "subject"), name(py, &description.subject)?)?;
    dictionary.set_item(intern!(py, "issuer"), name(py, &description.issuer)?)?;
    dictionary.set_item(intern!(py, "version"), description.version)?;
    dictionary.set_item(intern!(py, "serialNumber"), &description.serial_number)?;
    dictionary.set_item(intern!(py, "notBefore"), &description.not_before)?;
    dictionary.set_item(intern!(py, "notAfter"), &description.not_after)?;
    if !description.subject_alt_name.is_empty() {
        let names = description.subject_alt_name.iter().map(|entry| alternative_name(py, entry));
        let names = PyTuple::new(py, names.collect::<PyResult<Vec<_>>>()?)?;
        dictionary.set_item(intern!(py, "subjectAltName"), names)?;
    }
    for (key, addresses) in [
        (intern!(py, "OCSP"), &description.ocsp),
        (intern!(py, "caIssuers"), &description.ca_issuers),
        (intern!(py, "crlDistributionPoints"), &description.crl_distribution_points),
    ] {
        if !addresses.is_empty() {
            dictionary.set_item(key, PyTuple::new(py, addresses)?)?;
        }
    }
    Ok(dictionary)
}

fn name<'py>(py: Python<'py>, name: &Name) -> PyResult<Bound<'py, PyTuple>> {
    let sets = name.iter().map(|set| PyTuple::new(py, set)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(py, sets)
}

fn alternative_name<'py>(
    py: Python<'py>,
    entry: &AlternativeName,
) -> PyResult<Bound<'py, PyTuple>> {
    match entry {
        AlternativeName::Text(kind, text) => (*kind, text).into_pyobject(py),
        AlternativeName::Directory(directory) => {
            ("DirName", name(py, directory)?).into_pyobject(py)
        }
    }
}
