"""What does a probability mean, and which threshold follows from it?"""
