"""The actions of Batch and CVM: parameters, documents, pages."""
