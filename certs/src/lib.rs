//! The federation's certificate authority, enrolment by CSR, and the TLS configurations.
