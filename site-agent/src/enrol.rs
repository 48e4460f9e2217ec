//! Enrolment: the key is made here and never leaves; the invitation pins the CA; a CSR comes back as a certificate.
