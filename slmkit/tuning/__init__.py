"""What stands around a training: recipes, searches, checks, teachers and students, and what is kept of it.

The training itself is each backend's own (`slmkit/backends/`); this package says what to ask of it and looks at what
came out.
"""
