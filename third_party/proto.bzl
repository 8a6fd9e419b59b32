"""protoc and Debian's grpc_cpp_plugin: messages and service stubs as libraries of their own, so that a
package that may not see gRPC can still have the messages."""

def _generate_impl(ctx):
    outs = []
    suffixes = [".grpc.pb.cc", ".grpc.pb.h"] if ctx.attr.grpc else [".pb.cc", ".pb.h"]
    for suffix in suffixes:
        outs.append(ctx.actions.declare_file(ctx.file.src.basename[:-len(".proto")] + suffix))
    plugin = "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin --grpc_out" if ctx.attr.grpc else "--cpp_out"
    command = "/usr/bin/protoc -I. {}={} {}".format(plugin, ctx.bin_dir.path, ctx.file.src.path)
    ctx.actions.run_shell(
        inputs = [ctx.file.src] + ctx.files.imports,
        outputs = outs,
        command = command,
        mnemonic = "Protoc",
    )
    return [
        DefaultInfo(files = depset(outs)),
        OutputGroupInfo(
            sources = depset([f for f in outs if f.basename.endswith(".cc")]),
            headers = depset([f for f in outs if f.basename.endswith(".h")]),
        ),
    ]

_generate = rule(
    implementation = _generate_impl,
    attrs = {
        "src": attr.label(allow_single_file = [".proto"]),
        "imports": attr.label_list(allow_files = [".proto"]),
        "grpc": attr.bool(default = False),
    },
)

def _library(name, src, imports, grpc, visibility, deps):
    _generate(
        name = name + "_generate",
        src = src,
        grpc = grpc,
        imports = imports,
    )
    native.filegroup(
        name = name + "_sources",
        srcs = [":" + name + "_generate"],
        output_group = "sources",
    )
    native.filegroup(
        name = name + "_headers",
        srcs = [":" + name + "_generate"],
        output_group = "headers",
    )
    native.cc_library(
        name = name,
        srcs = [":" + name + "_sources"],
        hdrs = [":" + name + "_headers"],
        visibility = visibility,
        deps = deps,
    )

def fathom_proto_library(name, src, imports = [], deps = [], visibility = None):
    """A cc_library of the messages of one .proto file.

    Args:
      name: name of the library.
      src: the .proto file.
      imports: the .proto files that src imports, directly or not.
      deps: the fathom_proto_library targets of those files.
      visibility: as for any target.
    """
    _library(name, src, imports, False, visibility, deps + ["@system//:protobuf"])

def fathom_grpc_library(name, src, imports = [], deps = [], visibility = None):
    """A cc_library of the service stubs of one .proto file.

    Args:
      name: name of the library.
      src: the .proto file.
      imports: the .proto files that src imports, directly or not.
      deps: the fathom_proto_library of src.
      visibility: as for any target.
    """
    _library(name, src, imports, True, visibility, deps + ["@system//:grpc"])
