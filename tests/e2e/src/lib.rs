//! The real program, from outside: all there is are the tests.
