"""Turnout inside other libraries; each subpackage needs the library that it is named after."""
