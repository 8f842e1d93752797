# The program of the demo: URI, IMAGE and PICTURE are given to it, the rest is the public API.
from virtuoso_core import connect

hypervisor = connect(URI)
print(hypervisor.version)

vm = hypervisor.new_vm()
vm.name = "virtuoso-demo"
vm.memory = "256 MiB"
vm.disk_image = IMAGE
vm.network("nat")
print(vm.diff())
vm.save()
print("acceleration:", vm.options["accel"])

vm.start()
print(vm.state)
print(vm.wait_for_address())
print(vm.run(["uname", "-srm"]).text, end="")
PICTURE.write_bytes(vm.screenshot())

vm.snapshot("works")
print("exit code", vm.run(["rm", "-rf", "/etc", "/root"]).exit_code)
vm.revert("works")
print(vm.run(["ls", "-d", "/etc", "/root"]).text, end="")

vm = hypervisor.find("virtuoso-demo")
vm.memory -= 64 * 1024
print(vm.diff())
print(vm.save())

vm.stop()
print(vm.state)
vm.destroy()
print(hypervisor.vms())
hypervisor.close()
