"""Distilling from end to end: a teacher, data, a student; and what the teacher was good for."""
